"""Checkpoints around a state dict, wrappers around a model: which tensors are read, what is reported."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writers import dense, mapping, number, save_legacy, save_zip, zip_file

from fashionjax.weights.files import WeightFileError, read, read_tensors
from fashionjax.weights.selection import unwrapped

A = np.arange(3, dtype=np.float32)
B = A + 10
BOTH = {"0": A.tobytes(), "1": B.tobytes()}


def plain(key="0", name="w") -> bytes:
    return mapping({name: dense(key, A)})


def checkpoint(path, entries: dict, **beside) -> str:
    """A checkpoint whose nested dicts are `entries`; a leaf is the key of a storage, '0' (A) or '1' (B)."""

    def encoded(value) -> bytes:
        if isinstance(value, str):
            return plain(value)
        return mapping({name: encoded(inner) for name, inner in value.items()})

    tree = {name: encoded(value) for name, value in entries.items()}
    return str(zip_file(path / "w.pth", mapping(tree | beside), BOTH))


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict", "model", "net", "params", "mine"])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_single_state_dict_is_read_without_remark(tmp_path, save, wrap):
    file = read(save(tmp_path / "w.pth", {"x": A, "y": B}, wrap))
    assert list(file.tensors) == ["x", "y"] and file.remarks == ()
    np.testing.assert_array_equal(file.tensors["y"], B)


@pytest.mark.parametrize(
    "entries, taken, others",
    [
        ({"state_dict_ema": "1", "state_dict": "0"}, "state_dict", "state_dict_ema"),
        ({"model_ema": "1", "model": "0"}, "model", "model_ema"),
        ({"params_ema": "1", "params": "0"}, "params", "params_ema"),
        ({"ema_state_dict": {"module": "1"}, "state_dict": "0"}, "state_dict", "ema_state_dict.module"),
        ({"model": "1", "state_dict": "0"}, "state_dict", "model"),
        ({"teacher": "1", "student": "0"}, "student", "teacher"),
        ({"ema": {"model": "1"}, "state_dict": {"model": "0"}}, "state_dict.model", "ema.model"),
    ],
)
def test_the_plain_state_dict_is_taken_and_the_other_offered(tmp_path, entries, taken, others):
    path = checkpoint(tmp_path, entries, epoch=number(3))
    file = read(path)
    np.testing.assert_array_equal(file.tensors["w"], A)
    (remark,) = file.remarks
    assert remark == (
        f"read entry {taken!r} (1 tensors); the file also holds {others}: --entry=NAME reads another one"
    )
    np.testing.assert_array_equal(read(path, entry=others).tensors["w"], B)


def test_optimizer_states_are_no_weights(tmp_path):
    moments = mapping({"state": mapping({"0": plain("1", "exp_avg")})})
    path = checkpoint(tmp_path, {"model": "0"}, optimizer=moments, lr_scheduler=plain("1"))
    assert list(read(path).tensors) == ["w"] and read(path).remarks == ()


@pytest.mark.parametrize(
    "entries, entry, said",
    [
        ({"a": "0", "b": "1"}, None, "holds several state dicts: a, b; --entry=NAME reads one"),
        ({"state_dict": {"model": "0", "state_dict": "1"}}, None, "state_dict.model, state_dict.state_dict"),
        ({"ema": "0", "swa": "1"}, None, "several state dicts: ema, swa"),
        ({"model": "0", "ema": "1"}, "emma", "no state dict --entry='emma'; there are model, ema"),
        ({"model": "0"}, "", "no state dict --entry=''; there are model"),
        ({"a": {"b": {"c": {"d": "0"}}}}, None, "holds no tensors"),
    ],
)
def test_entries_that_cannot_be_chosen(tmp_path, entries, entry, said):
    with pytest.raises(WeightFileError) as caught:
        read(checkpoint(tmp_path, entries), entry=entry)
    assert said in str(caught.value)


def test_the_same_dict_again_and_again_costs_nothing(tmp_path):
    """200 names of 200 names of 200 names of one dict: eight million paths to it."""
    inner = plain() + b"q\x01"
    for level in range(2, 5):
        recall = b"h" + bytes([level - 1])
        names = {f"n{i}": recall for i in range(1, 200)}
        inner = mapping({"n0": inner} | names) + b"q" + bytes([level])
    path = zip_file(tmp_path / "w.pth", inner, BOTH)
    assert list(read_tensors(path)) == ["w"]


def test_formats_without_entries(tmp_path):
    save_file({"module.w": A}, tmp_path / "w.safetensors")
    assert read(tmp_path / "w.safetensors").remarks == (
        "removed the prefix 'module.' from the names of 1 tensors",
    )
    with pytest.raises(WeightFileError, match="leave --entry='model' out"):
        read(tmp_path / "w.safetensors", entry="model")


# --- prefixes ---

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "_forward_module.")
ORDERS = [*itertools.permutations(WRAPPERS, 1), *itertools.permutations(WRAPPERS[:4], 2)]
ORDERS += [("module.", "_fsdp_wrapped_module.", "model."), ("_orig_mod.", "model.", "module.")]


@pytest.mark.parametrize("parts", ORDERS, ids="".join)
def test_wrappers_in_every_order_are_removed_from_all_names(parts):
    prefix = "".join(parts)
    named = unwrapped({f"{prefix}conv1.weight": 1, f"{prefix}fc.bias": 2})
    assert named.tensors == {"conv1.weight": 1, "fc.bias": 2}
    (remark,) = named.remarks()
    assert all(part in remark for part in parts) and "2 tensors" in remark


@pytest.mark.parametrize(
    "names",
    [
        ("module.x", "y"),
        ("model.x", "criterion.y"),
        ("backbone.x", "backbone.y"),
        ("features.0.x",),
        ("modules.x",),
    ],
)
def test_prefixes_that_not_all_names_have_or_that_mean_something_stay(names):
    assert list(unwrapped(dict.fromkeys(names, 0)).tensors) == list(names)


def test_a_compiled_submodule():
    """torch.compile(model.backbone) prefixes its names alone; two names that would become one stay apart."""
    named = unwrapped({"backbone._orig_mod.conv1.weight": 1, "head.weight": 2})
    assert named.tensors == {"backbone.conv1.weight": 1, "head.weight": 2} and "_orig_mod." in named.removed
    clash = {"a._orig_mod.w": 1, "a.w": 2}
    assert unwrapped(clash).tensors == clash


@pytest.mark.parametrize("prefix", ["encoder_q.", "encoder_q", "module.encoder_q."])
def test_a_prefix_of_the_users_choice(tmp_path, prefix):
    """MoCo's checkpoint: two encoders and a queue, wrapped by DataParallel; the rest is named."""
    tensors = {"module.encoder_q.w": A, "module.encoder_k.w": B, "module.queue": B}
    file = read(save_zip(tmp_path / "moco.pth", tensors, "state_dict"), prefix=prefix)
    assert list(file.tensors) == ["w"]
    np.testing.assert_array_equal(file.tensors["w"], A)
    assert "2 tensors with another prefix are not read: " in file.remarks[-1] and "queue" in file.remarks[-1]


def test_an_empty_prefix_keeps_the_names(tmp_path):
    path = save_zip(tmp_path / "w.pth", {"module.w": A})
    assert list(read(path, prefix="").tensors) == ["module.w"]
    with pytest.raises(WeightFileError, match=r"begins with --prefix='net\.'; they begin with w"):
        read(path, prefix="net")
