"""Examples of attribute-aware retrieval: an image with one attribute to look at (`data.pairs`), as the region
input and, for models that crop, as a canvas that holds the image's central square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from fashionjax.data import preprocess
from fashionjax.errors import UserError

LABELS = ("attribute", "value", "role")


class Canvas(NamedTuple):
    """How the central square is kept for crops on the device: `train` is the canvas's side in training;
    `test` the sides that canvases have in evaluation, the smallest that the square fits into at its own size
    (of a larger one the square is shrunk to the largest)."""

    train: int
    test: tuple[int, ...]


def check_canvases(train: int, test: Sequence[int], size: int) -> Canvas:
    """UserError for canvases that are no positive, ascending sizes."""
    test = tuple(int(side) for side in test)
    if not test or list(test) != sorted(set(test)) or test[0] < size or train < size:
        raise UserError(
            f"config.canvas_size={train}, config.test_canvases={test}: at least image_size={size}, the "
            "latter in ascending order"
        )
    return Canvas(int(train), test)


# ------------------------------------------------------------------------------ records → arrays
def region_input(image: np.ndarray, size: int, rounded: bool = True) -> np.ndarray:
    """uint8 [h w 3] → [size size 3]: the shorter side to `size` (bilinear, antialiased), the centre of the
    longer one. `rounded`: resized, then cropped at a rounded offset, as torchvision's Resize and CenterCrop;
    else exactly the square that crops are taken from."""
    height, width = image.shape[:2]
    left, top, short = square_of(height, width)
    if not rounded:
        square = Image.fromarray(image[top : top + short, left : left + short])
        return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))
    shape = (int(size * width / short), int(size * height / short))
    left, top = (round((side - size) / 2) for side in shape)
    resized = Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def square_of(height: int, width: int) -> tuple[int, int, int]:
    """(left, top, side) of the central square, in pixels."""
    side = min(height, width)
    return (width - side) // 2, (height - side) // 2, side


def on_canvas(image: np.ndarray, canvas: Canvas, size: int, training: bool) -> dict:
    """uint8 [h w 3] → canvas u8 [c c 3], its top-left the central square with what the image has beside it,
    pixels i32 [size + 2] (`pixel_table`).

    A square that is too large is shrunk to the canvas; a smaller one keeps its size.
    """
    height, width = image.shape[:2]
    left, top, side = square_of(height, width)
    # a crop may end past the square, by one pixel of the region input
    reach = int((size + 1) / size * side) + 1
    if training or reach > canvas.test[-1]:
        limit = canvas.train if training else canvas.test[-1]
        square = image[top : top + side, left : left + side]
        if side > limit:
            square = np.asarray(Image.fromarray(square).resize((limit, limit), Image.Resampling.BILINEAR))
            side = limit
    else:
        limit = next(bucket for bucket in canvas.test if reach <= bucket)
        square = image[top : top + reach, left : left + reach]
    whole = np.zeros((limit, limit, 3), np.uint8)
    whole[: square.shape[0], : square.shape[1]] = square
    return {"canvas": whole, "pixels": pixel_table(size, side)}


def pixel_table(size: int, side: int) -> np.ndarray:
    """[size + 2] i32: entry v is int(v / size * side) in double precision, as RPF scales coordinates of the
    region input, `size` wide, to a square of `side` pixels. A box may end one past `size`."""
    return (np.arange(size + 2) / size * side).astype(np.int32)


def box_in_square(box: np.ndarray, height: int, width: int) -> np.ndarray:
    """box [… 4] xyxy in pixels of the image → in [0, 1] of its central square, clipped to it."""
    left, top, side = square_of(height, width)
    moved = (np.asarray(box, np.float32) - np.float32([left, top, left, top])) / np.float32(side)
    return np.clip(moved, 0, 1).astype(np.float32)


def make_preprocess(
    size: int,
    canvas: Canvas | None = None,
    mirrored: Callable[[Mapping], bool] = lambda record: False,
    *,
    rounded: bool = True,
) -> Callable[[dict, np.random.Generator | None], dict]:
    """(record of a pair, rng | None) → image u8 [size size 3]; attribute, value, role i32 and part_box f32
    [4] (in [0, 1] of the region input) where the record has them; with `canvas` also what `on_canvas` gives.

    `mirrored`: whether the region input of a record is mirrored in evaluation; `rounded` as for
    `region_input`.
    """

    def run(record: dict, rng: np.random.Generator | None) -> dict:
        image = preprocess.picture(record)
        height, width = image.shape[:2]
        example = {"image": region_input(image, size, rounded)}
        if rng is None and mirrored(record):
            example["image"] = np.ascontiguousarray(example["image"][:, ::-1])
        if canvas is not None:
            example |= on_canvas(image, canvas, size, rng is not None)
        example |= {name: np.asarray(record[name], np.int32) for name in LABELS if name in record}
        if "part_box" in record:
            example["part_box"] = box_in_square(record["part_box"], height, width)
        return example

    return run


def collate(examples: Sequence[dict]) -> dict:
    """Examples whose canvases differ → one batch [b …], canvases black up to the largest of them."""
    batch = {name: np.stack([e[name] for e in examples]) for name in examples[0] if name != "canvas"}
    if "canvas" not in examples[0]:
        return batch
    side = max(example["canvas"].shape[0] for example in examples)
    canvas = np.zeros((len(examples), side, side, 3), np.uint8)
    for row, example in zip(canvas, examples, strict=True):
        own = example["canvas"]
        row[: own.shape[0], : own.shape[1]] = own
    return batch | {"canvas": canvas}
