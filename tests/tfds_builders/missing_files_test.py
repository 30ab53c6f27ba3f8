"""Every file that the instructions name must be there, and every split in it: none is left out silently."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trees

from fashionjax.data import builders
from fashionjax.errors import UserError

SPLITS = ("train", "val", "test")
SHOP_SPLITS = ("train", "query", "gallery")
# dataset/config → (writer of a release, files that it reads; the others may be absent)
BENCHMARKS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "deepfashion_landmarks/original": (
        trees.landmarks,
        ["Anno/list_bbox.txt", "Anno/list_landmarks.txt", "Eval/list_eval_partition.txt"],
    ),
    "deepfashion_landmarks/mmfashion": (
        trees.landmarks_mmfashion,
        [f"{split}{end}.txt" for split in SPLITS for end in ("", "_bbox", "_landmarks")],
    ),
    "deepfashion_attributes/coarse": (
        trees.attributes,
        [
            *(f"Anno_coarse/list_{name}.txt" for name in ("attr_cloth", "attr_img", "category_cloth")),
            *(f"Anno_coarse/list_{name}.txt" for name in ("category_img", "bbox", "landmarks")),
            "Eval/list_eval_partition.txt",
        ],
    ),
    "deepfashion_attributes/fine": (
        trees.split_lists,
        [
            *("Anno_fine/list_attr_cloth.txt", "Anno_fine/list_category_cloth.txt"),
            *(
                f"Anno_fine/{s}{end}.txt"
                for s in SPLITS
                for end in ("", "_attr", "_cate", "_bbox", "_landmarks")
            ),
        ],
    ),
    "deepfashion_inshop/original": (
        trees.in_shop,
        [
            *(f"Anno/list_{name}_inshop.txt" for name in ("item", "bbox", "landmarks")),
            "Eval/list_eval_partition.txt",
        ],
    ),
    "deepfashion_inshop/mmfashion": (
        trees.in_shop_mmfashion,
        [f"Anno/{s}_{end}.txt" for s in SHOP_SPLITS for end in ("img", "labels", "id", "bbox", "landmarks")],
    ),
    "deepfashion_consumer2shop/original": (
        trees.consumer_to_shop,
        [
            *(f"Anno/list_{name}_consumer2shop.txt" for name in ("item", "bbox", "landmarks")),
            "Eval/list_eval_partition.txt",
        ],
    ),
    "deepfashion_consumer2shop/mmfashion": (
        trees.consumer_to_shop_mmfashion,
        [
            *(f"Anno/{name}.txt" for name in ("train_consumer2shop", "train_id", "consumer", "consumer_id")),
            *(f"Anno/{name}.txt" for name in ("shop", "shop_id")),
            *(f"Anno/list_{what}_{s}.txt" for what in ("bbox", "landmarks") for s in ("consumer", "shop")),
            *(f"Anno/list_{what}_train.txt" for what in ("bbox", "landmarks")),
        ],
    ),
}


def build(name: str, tree: Path, **options) -> dict:
    return builders.prepare(name, data_dir=tree.parent / "out", manual_dir=tree, progress=False, **options)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_file_is_required(name: str, tmp_path: Path) -> None:
    write, files = BENCHMARKS[name]
    tree = write(tmp_path / "release")
    for file in files:
        (tree / file).rename(tmp_path / "away")
        with pytest.raises(UserError, match=rf"{Path(file).name}.*: not found below"):
            build(name, tree)
        (tmp_path / "away").rename(tree / file)
    assert not trees.all_files(tmp_path / "out")


@pytest.mark.parametrize(
    "name", [name for name, (_, files) in BENCHMARKS.items() if "Eval/list_eval_partition.txt" in files]
)
@pytest.mark.parametrize("place", range(3))
def test_every_split_is_required(name: str, place: int, tmp_path: Path) -> None:
    """A partition that is whole but for the rows of a split."""
    tree = BENCHMARKS[name][0](tmp_path / "release")
    split = (SHOP_SPLITS if "inshop" in name else SPLITS)[place]
    file = tree / "Eval/list_eval_partition.txt"
    lines = file.read_text().rstrip("\n").split("\n")
    kept = [line for line in lines[2:] if line.split()[-1] != split]
    assert len(kept) < len(lines) - 2
    file.write_text("\n".join([str(len(kept)), lines[1], *kept]) + "\n")
    message = rf"^Eval/list_eval_partition.txt: no row of split {split}"
    with pytest.raises(UserError, match=message) as caught:
        build(name, tree)
    assert not re.search(r"\n", str(caught.value)) and not trees.all_files(tmp_path / "out")
