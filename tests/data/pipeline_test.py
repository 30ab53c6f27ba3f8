"""The stream is a function of (seed, position): whatever the workers, hosts and the step it starts at."""

import itertools

import numpy as np
import pytest

from fashionjax.data import pipeline, source
from fashionjax.errors import UserError


def plain(record, rng):
    """Label and a random number; no image."""
    noise = np.float64(0.0 if rng is None else rng.random())
    return {"category": np.int32(record["category"]), "noise": noise}


@pytest.fixture(scope="module")
def split(synthetic_dir):
    return source.open_split("synthetic_fashion/attributes", "train", synthetic_dir)


def take(split, count, **kw):
    options = {"batch_size": 8, "seed": 3} | kw
    return list(itertools.islice(pipeline.train_batches(split, plain, **options), count))


def same(left, right):
    return all(np.array_equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a)


@pytest.mark.slow
def test_an_epoch_is_a_permutation_and_epochs_differ(split):
    batches = take(split, 12)
    first = np.concatenate([b["index"] for b in batches[:6]])
    second = np.concatenate([b["index"] for b in batches[6:]])
    assert sorted(first) == sorted(second) == list(range(48))
    assert not np.array_equal(first, second)


def test_starts_at_any_step(split):
    assert same(take(split, 9)[5:], take(split, 4, start_step=5))


@pytest.mark.slow
def test_worker_processes_change_nothing(split):
    assert same(take(split, 5), take(split, 5, workers=2))


def test_hosts_share_one_global_batch(split):
    whole = take(split, 3)
    parts = [take(split, 3, process=(i, 2)) for i in range(2)]
    for step, batch in enumerate(whole):
        shares = np.concatenate([parts[i][step]["index"] for i in range(2)])
        assert sorted(shares) == sorted(batch["index"])
        noise = dict(zip(batch["index"], batch["noise"]))
        assert all(noise[i] == n for p in parts for i, n in zip(p[step]["index"], p[step]["noise"]))


def test_seeds_differ(split):
    assert not same(take(split, 3), take(split, 3, seed=4))


def test_order_of_a_sampler(split):
    batches = take(split, 3, order=lambda seed, position: (seed + position) % 5)
    assert np.concatenate([b["index"] for b in batches]).tolist() == [(3 + p) % 5 for p in range(24)]


def test_last_batch_is_padded_and_masked(synthetic_dir):
    split = source.open_split("synthetic_fashion/attributes", "test", synthetic_dir)  # 13 records
    batches = list(pipeline.eval_batches(split, plain, batch_size=8))
    assert [b["category"].shape for b in batches] == [(8,), (8,)]
    valid = np.concatenate([b["example_valid"] for b in batches])
    index = np.concatenate([b["index"] for b in batches])
    assert index[valid].tolist() == list(range(13)) and set(index[~valid]) == {pipeline.PADDING}
    assert not any(len(pipeline.damaged(b)) for b in batches)


class Broken:
    """A split of which some records cannot be read."""

    dataset, name = "broken", "train"

    def __init__(self, split, bad):
        self.split, self.bad = split, bad

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        if index in self.bad:
            raise source.DamagedRecord(f"broken/train[{index}]", "checksum")
        return self.split[index]


def test_damaged_records_are_blank_and_named(split):
    broken = Broken(split, {0, 7})
    batches = take(broken, 6)
    found = sorted(int(i) for b in batches for i in pipeline.damaged(b))
    assert found == [0, 7]
    assert sum(b["example_valid"].sum() for b in batches) == 46
    assert "broken/train[7]" in pipeline.why_damaged(broken, plain, 7)


def test_nothing_readable_is_an_error(split):
    with pytest.raises(UserError, match="no record can be read"):
        take(Broken(split, set(range(48))), 1)


def test_flipped_bytes_in_the_file_are_a_damaged_record(synthetic_dir, tmp_path):
    """Bytes overwritten in the stored file: records are reported, the others are intact."""
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(synthetic_dir, copy)
    (file,) = copy.glob("**/*train.array_record*")
    raw = bytearray(file.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 40] = bytes(40)
    file.write_bytes(raw)
    split = source.open_split("synthetic_fashion/attributes", "train", copy)
    bad = []
    for index in range(len(split)):
        try:
            split[index]
        except source.DamagedRecord as error:
            bad.append(index)
            assert f"[{index}]" in str(error)
    assert 1 <= len(bad) <= 3


def test_missing_dataset_and_split_say_what_to_do(synthetic_dir):
    with pytest.raises(UserError, match="fashionjax prepare deepfashion_landmarks"):
        source.open_split("deepfashion_landmarks", "train", synthetic_dir)
    with pytest.raises(UserError, match=r"no split 'dev'.*test, train, val"):
        source.open_split("synthetic_fashion/attributes", "dev", synthetic_dir)


def test_padding_to_a_multiple_of_rows():
    batch = {"index": np.arange(5, dtype=np.int32), "example_valid": np.ones(5, bool), "x": np.ones((5, 2))}
    padded = pipeline.pad(batch, 4)
    assert padded["index"].tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
    assert padded["example_valid"].tolist() == [True] * 5 + [False] * 3 and not padded["x"][5:].any()
    assert pipeline.damaged(padded).size == 0 and pipeline.pad(padded, 4) is padded


@pytest.mark.parametrize(("batch_size", "hosts"), [(6, 4), (5, 2), (8, 3)])
def test_batches_that_do_not_divide_over_hosts_hold_every_record_once(split, batch_size, hosts):
    shares = [
        list(pipeline.eval_batches(split, plain, batch_size=batch_size, process=(host, hosts)))
        for host in range(hosts)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = [index for step in zip(*shares) for batch in step for index in batch["index"].tolist()]
    assert [index for index in seen if index >= 0] == list(range(len(split)))
