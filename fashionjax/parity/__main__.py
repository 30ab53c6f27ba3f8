"""`python -m fashionjax.parity DIR…`: recorded numbers of the original PyTorch code against this code.

A folder holds a manifest (which weights and inputs to draw, which outputs exist) and `outputs.npz`. Its model
is recognised by the keys and shapes of its state dict, the weights are drawn and imported as if they came
from a checkpoint, and every output named by the manifest is compared: one line each, `folder output
rel_l2=… ok|FAIL`. An output that is not computed fails. A folder without a manifest holds metric and loss
goldens (`metrics`). A folder that cannot be read counts as one failure, and the others are still
compared. The last line counts; the exit status is 0 when something was compared and nothing failed, 1 when
something failed, 2 when a folder's model is unknown.
"""

import contextlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax

from fashionjax import cli
from fashionjax.errors import UserError
from fashionjax.parity import draws, metrics, models
from fashionjax.parity.results import DENSE_BOUND, Recording, Result, load_arrays
from fashionjax.weights import key_maps
from fashionjax.weights.checked_bytes import is_count
from fashionjax.weights.selection import unwrapped


def check_model_folder(folder: Path) -> list[Result]:
    """Draw, import, run, compare one folder; UnknownModel when its keys belong to no model of the project."""
    manifest = read_manifest(folder)
    shapes = unwrapped({key: tuple(shape) for key, shape, _ in manifest["state_dict"]}).tensors
    stored = load_arrays(folder / "outputs.npz")
    model, rules, run = models.recognise(shapes, manifest, Recording(folder, stored))
    try:
        arguments = run.arguments(draws.inputs(manifest))
        template = jax.eval_shape(partial(run.init, model), *arguments)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:  # einops raises RuntimeError
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / 'manifest.json'}: inputs do not fit the model: {why}") from error
    drawn = unwrapped(draws.state_dict(manifest)).tensors  # a key is drawn as it stands in the file
    variables, _ = key_maps.fill(template, drawn, rules)
    with jax.default_matmul_precision("highest"):
        computed = run.outputs(model, variables, arguments)
    results = []
    for output in manifest["outputs"]:
        name = output["name"]
        measure, error, bound = "rel_l2", float("nan"), DENSE_BOUND
        # an output may be stored in parts that do not fit each other
        with contextlib.suppress(KeyError, IndexError, ValueError, TypeError):
            measure, error, bound = run.difference(stored, name, computed.get(name))
        state = "ok" if error <= bound else "FAIL"
        results.append(Result(folder.name, name, measure, error, state))
    return results


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder; UserError when it or the outputs cannot be read or lack their parts."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path}: expected a JSON object")
    missing = [part for part in PARTS if part not in manifest]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}")
    for part, is_entry in PARTS.items():
        entries = manifest[part]
        if not isinstance(entries, list) or not all(map(is_entry, entries)):
            raise UserError(f"{path}: {part} is not a list of entries of a parity folder")
    npz = manifest.get("npz_entries") or []
    if not isinstance(npz, list) or not all(map(_is_tensor, npz)):
        raise UserError(f"{path}: npz_entries is not a list of entries of a parity folder")
    for part, kind in (("model_args", dict | None), ("salt", str | None)):
        if not isinstance(manifest.get(part), kind):
            raise UserError(f"{path}: {part} is a {type(manifest[part]).__name__}")
    if not (folder / "outputs.npz").is_file():
        raise UserError(f"{folder}: outputs.npz is missing")
    return manifest


def _is_tensor(entry: Any) -> bool:
    """[key, shape, dtype]"""
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[0], str):
        return False
    return isinstance(entry[1], list) and all(map(is_count, entry[1]))


def _is_input(entry: Any) -> bool:
    return _is_output(entry) and isinstance(entry.get("draw"), str) and isinstance(entry.get("shape"), list)


def _is_output(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("name"), str)


PARTS = {"state_dict": _is_tensor, "inputs": _is_input, "outputs": _is_output}  # of a manifest


def check(folder: Path) -> list[Result]:
    """A model folder, or one of metric goldens when it has no manifest."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder")
    if (folder / "manifest.json").exists():
        return check_model_folder(folder)
    return metrics.check_folder(folder)


def main(argv: list[str]) -> int:
    """Folders as arguments -> exit status."""
    if len(argv) < 2:
        raise UserError("expected at least one folder: python -m fashionjax.parity DIR…")
    passed = failed = 0
    unknown = False
    for argument in argv[1:]:
        folder = Path(argument).resolve()
        try:
            results = check(folder)
        except (models.UnknownModel, key_maps.KeyMismatch) as error:
            print(f"error: {folder}: {error}", file=sys.stderr)
            unknown = True
            continue
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failed += 1
            continue
        for result in results:
            print(result.line(), flush=True)
        passed += sum(result.state == "ok" for result in results)
        failed += sum(result.state == "FAIL" for result in results)
        jax.clear_caches()  # the compiled programs of one folder are of no use to the next
    print(f"{passed} passed, {failed} failed")
    if unknown:
        return 2
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    cli.run(main)
