"""Builders leave nothing in the folder of temporary files."""

import tempfile

from tfds_builders.synthetic_fashion.synthetic_fashion_dataset_builder import Builder


def test_a_dataset_that_is_not_prepared_leaves_no_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert not Builder(data_dir=tmp_path / "data", config="attributes").is_prepared()
    assert list((tmp_path / "temporary").iterdir()) == []
