# Set-up and everyday commands; each target installs what it needs first.
# the first Python that runs and is of a supported version
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
  $$p -c '$(FITS)' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
TORCH ?= torch==2.13.0 faiss-cpu==1.13.2 scikit-learn==1.8.0
UV ?= uv==0.9.30
NUMERIC := tests/ops tests/models tests/metrics tests/tasks tests/runtime tests/parity tests/losses_test.py

.PHONY: install demo test test-quick test-full lint lock bench

install: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@$(or $(PYTHON),false) -c '$(FITS)' || \
	  { echo "error: Python 3.11 or 3.12 is needed; pass PYTHON=/path/to/python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(UV)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

# huge pages save a quarter of a training step's time on a CPU
demo: install
	rm -rf runs/demo
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m fashionjax.demo --out=runs/demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n 2 -m "not full"

# the essentials of each room, for a change under way
test-quick: lint
	$(BIN)/python -m pytest -n 2 -m "not full and not slow"

# PyTorch for re-deriving stored figures, every test with XLA's own flags, then older instruction sets
test-full: lint
	$(BIN)/python -m pip install --quiet $(TORCH)
	XLA_FLAGS= $(BIN)/python -m pytest
	XLA_FLAGS=--xla_cpu_max_isa=AVX2 $(BIN)/python -m pytest -n 2 -m "not full"
	XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 $(BIN)/python -m pytest -n 2 -m "not full" $(NUMERIC)

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --no-header --no-annotate --quiet --output-file requirements.txt

bench: install
	$(BIN)/python -m benchmarks.throughput --out benchmarks/results/throughput_cpu.json
