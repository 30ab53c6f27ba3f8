"""Synthetic datasets of different settings live side by side in one data_dir."""

from experiments import demo
from fashionjax.runtime import datasets


def split_of(tmp_path, settings: str):
    config = demo.get_config()
    config.data_dir, config.synthetic.set = str(tmp_path), settings
    return datasets.open_split(config, "train")


def test_settings_do_not_collide(tmp_path):
    one = split_of(tmp_path, "train=3,val=2,test=2,size=32")
    other = split_of(tmp_path, "train=4,val=2,test=2,size=32")
    again = split_of(tmp_path, "train=3,val=2,test=2,size=32")
    assert [len(split) for split in (one, other, again)] == [3, 4, 3]
    assert one.folder == again.folder != other.folder and tmp_path in other.folder.parents
