"""Impossible settings are refused, by field, before any work."""

import pytest

from experiments import demo
from fashionjax import train
from fashionjax.data import builders
from fashionjax.errors import UserError
from fashionjax.runtime import settings


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("batch_size", -3, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("steps", 0, "exactly one"),
        ("epochs", 3, "exactly one"),
        ("workers", -1, "at least 0"),
        ("image_size", 0, "at least 1"),
        ("parallel", "threads", "pmap, shard_map"),
        ("dtype", "bf16", "float32, bfloat16"),
        ("best_mode", "most", "max, min"),
        ("optim.lr", float("nan"), "at least 0"),
        ("optim.lr", -1.0, "at least 0"),
        ("optim.momentum", 1.5, "at most 1"),
        ("optim.optimizer", "lion", "sgd, adam, adamw"),
        ("optim.frozen", ("(",), "regular expressions"),
        ("augment.flip", 1.5, "at most 1"),
        ("augment.scale", (0.9, 0.1), "low <= high"),
        ("model.dropout", -0.1, "at least 0"),
        ("loss.category", float("inf"), "finite"),
    ],
)
def test_impossible_values_are_refused_before_any_work(tmp_path, monkeypatch, field, value, message):
    config = demo.get_config()
    config.data_dir = str(tmp_path / "data")
    monkeypatch.setattr(builders, "prepare", lambda *_, **__: pytest.fail("rendered"))
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message) as caught:
        train.train(config, tmp_path / "run")
    assert f"config.{field}=" in str(caught.value) and not list(tmp_path.iterdir())


def test_a_batch_that_does_not_divide_is_refused_before_any_work(tmp_path, monkeypatch):
    config = demo.get_config()
    config.batch_size, config.data_dir = 12, str(tmp_path / "data")
    monkeypatch.setattr(builders, "prepare", lambda *_, **__: pytest.fail("rendered"))
    with pytest.raises(UserError, match=r"config\.batch_size=12 does not divide over 8 devices"):
        train.train(config, tmp_path / "run")


def test_settings_of_experiments_pass():
    settings.check(demo.get_config())
