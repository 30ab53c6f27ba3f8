"""Plain pickles of arrays, as detectron2 publishes them: read as data, by any protocol and either numpy."""

import pickle

import numpy as np
import pytest

from fashionjax.weights import files

RNG = np.random.default_rng(0)
ARRAYS = {
    "backbone.fpn_lateral2.weight": RNG.normal(size=(2, 3, 1, 1)).astype(np.float32),
    "backbone.fpn_lateral2.bias": np.asfortranarray(RNG.normal(size=(4, 3)).astype(np.float32)),
    "steps": np.array(7, np.int64),
    "half": RNG.normal(size=3).astype(np.float16),
    "big_endian": RNG.normal(size=(2, 2)).astype(">f4"),
    "empty": np.zeros((0, 3), np.float32),
}


def written(tmp_path, content, protocol=2):
    path = tmp_path / "model_final.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_zoo_pickles_are_read(tmp_path, protocol):
    path = written(tmp_path, {"model": ARRAYS, "__author__": "Detectron2 Model Zoo"}, protocol)
    got = files.read_tensors(path)
    assert list(got) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype.isnative and not got[name].flags.writeable


def test_python_2_pickles_are_read(tmp_path):
    raw = ARRAYS["half"].astype("<f4").tobytes()
    pickled = (
        b"\x80\x02}q\x00U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    got = files.read_tensors(written(tmp_path, pickled))
    np.testing.assert_array_equal(got["w"], ARRAYS["half"].astype(np.float32))


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def test_nothing_is_executed(tmp_path, capsys):
    with pytest.raises(files.WeightFileError, match="print"):
        files.read_tensors(written(tmp_path, {"model": {"a": ARRAYS["half"], "b": Hostile()}}))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"a": np.array(["text"])}},
        {"model": {"a": np.array([None])}},
        {"model": {}},
        [1, 2],
        b"\x80\x02garbage",
        pickle.dumps({"model": ARRAYS}, 4)[:-30],
    ],
)
def test_what_holds_no_numbers_is_refused(tmp_path, content):
    with pytest.raises(files.WeightFileError, match=r"model_final\.pkl"):
        files.read_tensors(written(tmp_path, content))


def test_a_wrong_shape_is_refused(tmp_path):
    pickled = pickle.dumps({"a": np.zeros(3, np.float32)}, 2)
    assert b"K\x03\x85" in pickled
    with pytest.raises(files.WeightFileError, match="declares shape"):
        files.read_tensors(written(tmp_path, pickled.replace(b"K\x03\x85", b"K\x04\x85")))
