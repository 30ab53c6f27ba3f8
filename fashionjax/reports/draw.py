"""What a model says, drawn on images: landmarks, boxes, captions, contact sheets. uint8 [h w 3] in and out.

Colours are Okabe and Ito's, told apart with every common colour blindness; shapes say the same a second time:
left landmarks are round, right ones square, hollow ones were predicted invisible, wrong results are crossed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fashionjax.data import photo

TRUTH = (0, 158, 215)  # blue
PREDICTION = (240, 128, 0)  # orange
RIGHT = (0, 158, 115)  # bluish green
WRONG = (213, 94, 0)  # vermilion
PALETTE = (PREDICTION, TRUTH, (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (86, 180, 233))
INK, PAPER, FADED = (24, 26, 30), (255, 255, 255), (110, 116, 124)
LEGEND = (
    "blue: truth; orange: prediction; the line between them is the error; round: left of a pair, "
    "square: right; hollow: predicted as not visible"
)

SMOOTH = 3  # marks are drawn this much larger and scaled down: Pillow's own lines are jagged


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans of matplotlib's package: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def landmarks(
    image: np.ndarray,
    prediction: np.ndarray | None = None,
    prediction_visible: np.ndarray | None = None,
    truth: np.ndarray | None = None,
    truth_visible: np.ndarray | None = None,
) -> np.ndarray:
    """image uint8 [h w 3] at display size, landmarks float [k 2] in [0, 1], visibility bool [k] → [h w 3].

    Slots come in left/right pairs (even slot left, odd right). Visible truths are drawn, each with a line to
    its prediction; predictions of truly unused or hidden slots are drawn only where no truth is given. Points
    outside the image are held at its border.
    """
    height, width = image.shape[:2]
    radius = max(3.0, 0.014 * max(height, width))
    shown = _shown(prediction, truth, truth_visible)
    layer, pen = _layer(width, height)
    position = functools.partial(_position, width=width, height=height)
    if truth is not None and prediction is not None:
        for slot in np.flatnonzero(shown):
            ends = [position(truth[slot]), position(prediction[slot])]
            pen.line(
                [*_scaled(ends[0]), *_scaled(ends[1])], fill=(*PAPER, 255), width=round(SMOOTH * radius * 0.7)
            )
            pen.line(
                [*_scaled(ends[0]), *_scaled(ends[1])], fill=(*INK, 255), width=round(SMOOTH * radius * 0.3)
            )
    if truth is not None:
        for slot in np.flatnonzero(shown):
            _mark(pen, position(truth[slot]), radius, TRUTH, left=slot % 2 == 0, hollow=False)
    if prediction is not None:
        for slot in np.flatnonzero(shown):
            hollow = prediction_visible is not None and not prediction_visible[slot]
            _mark(pen, position(prediction[slot]), radius, PREDICTION, left=slot % 2 == 0, hollow=hollow)
    return _composite(image, layer)


def boxes(
    image: np.ndarray,
    box: np.ndarray,
    labels: Sequence[str] | None = None,
    colours: Sequence[tuple[int, int, int]] = PALETTE,
) -> np.ndarray:
    """image uint8 [h w 3], box float [n 4] xyxy in its pixels, a label each → [h w 3] with them.

    Labels stand at the upper left corners, inside the image, and are moved off each other where there is
    room; the last box's is placed first."""
    height, width = image.shape[:2]
    thickness = max(2, round(0.006 * max(height, width)))
    layer, pen = _layer(width, height)
    tags = []
    for index, corners in enumerate(np.asarray(box, np.float64)):
        colour = colours[index % len(colours)]
        x1, y1, x2, y2 = np.clip(corners, 0, [width, height, width, height])
        if x2 <= x1 or y2 <= y1:
            continue
        pen.rectangle(_scaled((x1, y1, x2, y2)), outline=(*PAPER, 255), width=SMOOTH * (thickness + 2))
        inner = (x1 + 1, y1 + 1, max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1))  # of a box thinner than the line
        pen.rectangle(_scaled(inner), outline=(*colour, 255), width=SMOOTH * thickness)
        if labels:
            tags.append((labels[index], (x1, y1), colour))
    taken: list[tuple[float, float, float, float]] = []
    for text, corner, colour in reversed(tags):
        taken.append(_tag(pen, text, corner, colour, max(11, round(0.04 * max(height, width))), taken))
    return _composite(image, layer)


def attention(image: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """image uint8 [h w 3], weight float [m n] over the whole image → [h w 3]: dark where the weight is low,
    unchanged where it is highest; a constant weight leaves the image as it is."""
    height, width = image.shape[:2]
    weight = np.asarray(weight, np.float32)
    low, high = float(weight.min()), float(weight.max())
    if not high > low:
        return image.copy()
    level = Image.fromarray((weight - low) / (high - low)).resize((width, height), Image.Resampling.BILINEAR)
    kept = 0.25 + 0.75 * np.clip(np.asarray(level), 0, 1)
    return np.rint(image * kept[..., None]).astype(np.uint8)


def caption(
    image: np.ndarray, lines: Sequence[str], scores: Sequence[float | None] | None = None
) -> np.ndarray:
    """image uint8 [h w 3] → [h+s w 3]: a strip with the lines below it.

    With `scores` a line with a score 0..1 has a bar behind it, and one without is a faint heading.
    """
    width = image.shape[1]
    size = int(np.clip(width * 0.05, 11, 22))
    row = round(size * 1.5)
    strip = Image.new("RGB", (width, row * len(lines) + row // 3), PAPER)
    pen = ImageDraw.Draw(strip)
    for index, line in enumerate(lines):
        score = None if scores is None else scores[index]
        top, room = index * row + row // 6, width - 2 * (size // 3)
        if score is not None:
            bar = (size // 3, top + 1, size // 3 + max(1, room * float(np.clip(score, 0, 1))), top + row - 2)
            pen.rectangle(bar, fill=(255, 219, 173))
            room -= pen.textlength(f" {score:.2f}", font(size))
            pen.text((width - size // 3, top + row / 2), f"{score:.2f}", INK, font(size), anchor="rm")
        colour = FADED if scores is not None and score is None else INK
        text = shorten(line, font(size), room)
        pen.text((size // 3 + 2, top + row / 2), text, colour, font(size), anchor="lm")
    return np.concatenate([image, np.array(strip)])


def contact_sheet(
    query: np.ndarray,
    results: Sequence[np.ndarray],
    correct: Sequence[bool | None],
    captions: Sequence[str] | None = None,
    side: int = 160,
) -> np.ndarray:
    """A query and its ranked results, uint8 [h w 3] each of any size → one image, uint8 [h w 3].

    `correct` frames each result green with a tick or vermilion with a cross; None leaves it plain.
    `captions` (one for the query, then one a result) stand below.
    """
    captions = captions or ["query", *(str(rank + 1) for rank in range(len(results)))]
    head = _cell(query, captions[0], None, side, bold=True)
    gap = np.full((head.shape[0], side // 8, 3), 255, np.uint8)
    if not len(results):
        return np.concatenate([head, gap], axis=1)
    return np.concatenate([head, gap, picture_row(results, correct, captions[1:], side)], axis=1)


def picture_row(
    pictures: Sequence[np.ndarray], correct: Sequence[bool | None], captions: Sequence[str], side: int = 160
) -> np.ndarray:
    """Pictures, uint8 [h w 3] each of any size, side by side, framed and captioned as in `contact_sheet`."""
    rows = zip(pictures, captions, correct, strict=True)
    return np.concatenate(
        [_cell(picture, text, mark, side, bold=False) for picture, text, mark in rows], axis=1
    )


def stacked(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures, uint8 [h w 3], below each other on white."""
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate(padded)


def shorten(text: str, face: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, or its beginning with an ellipsis that is at most `room` pixels wide."""
    if face.getlength(text) <= room:
        return text
    while text and face.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _shown(prediction, truth, truth_visible) -> np.ndarray:
    """bool [k]: the slots worth drawing, by truth where there is one; never non-finite coordinates."""
    points = [np.asarray(p) for p in (prediction, truth) if p is not None]
    if not points:
        raise ValueError("landmarks: neither prediction nor truth given")
    finite = np.all([np.isfinite(p).all(-1) for p in points], axis=0)
    return finite if truth_visible is None else finite & np.asarray(truth_visible).astype(bool)


def _position(point, *, width: int, height: int) -> tuple[float, float]:
    return float(np.clip(point[0], 0, 1)) * width, float(np.clip(point[1], 0, 1)) * height


def _scaled(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(SMOOTH * value for value in values)


def _layer(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    layer = Image.new("RGBA", (SMOOTH * width, SMOOTH * height), (0, 0, 0, 0))
    return layer, ImageDraw.Draw(layer)


def _composite(image: np.ndarray, layer: Image.Image) -> np.ndarray:
    height, width = image.shape[:2]
    small = layer.resize((width, height), Image.Resampling.BOX)
    return np.array(Image.alpha_composite(Image.fromarray(image).convert("RGBA"), small).convert("RGB"))


def _mark(pen: ImageDraw.ImageDraw, centre, radius: float, colour, *, left: bool, hollow: bool) -> None:
    """A disc or a square in a white rim; hollow: the rim and a ring of colour, the image shows through."""
    draw = pen.ellipse if left else pen.rectangle
    radius = radius if left else radius * 0.88  # about equal areas

    def ring(outer: float, fill, outline, width: float) -> None:
        corners = [centre[0] - outer, centre[1] - outer, centre[0] + outer, centre[1] + outer]
        draw(_scaled(corners), fill=fill, outline=outline, width=round(SMOOTH * width))

    if hollow:
        ring(radius * 1.2 + 1, None, (*PAPER, 255), radius * 0.45 + 2)
        ring(radius * 1.2, None, (*colour, 255), radius * 0.45)
    else:
        ring(radius + 1, (*PAPER, 255), None, 1)
        ring(radius - 0.3, (*colour, 255), None, 1)


def _tag(pen: ImageDraw.ImageDraw, text: str, corner, colour, size: int, taken) -> tuple:
    """Draws a label on its colour; → its rectangle xyxy in the layer's pixels. Letters are made smaller, then
    left out, where the image is too narrow for them."""
    width, height = pen.im.size
    side, top = 3 * SMOOTH, 2 * SMOOTH  # around the letters
    room = width - 2 * side
    size = max(8, int(size * min(1.0, room / pen.textlength(text, font(SMOOTH * size, bold=True)))))
    face = font(SMOOTH * size, bold=True)
    text = shorten(text, face, room)
    wide, tall = pen.textlength(text, face) + 2 * side, sum(face.getmetrics()) + 2 * top
    x, y = np.clip(_scaled(corner), 0, np.maximum(0, [width - wide, height - tall]))
    x, y = x, _free_row(x, y, wide, tall, taken, height)
    pen.rectangle((x, y, x + wide, y + tall), fill=(*colour, 255))
    dark = np.dot(colour, (0.299, 0.587, 0.114)) < 110
    pen.text((x + side, y + top), text, (*(PAPER if dark else INK), 255), face)
    return x, y, x + wide, y + tall


def _free_row(x: float, y: float, wide: float, tall: float, taken, height: int) -> float:
    """The top nearest to `y`, in steps of a label, below it first, at which no rectangle of `taken` is hit;
    `y` where there is none."""
    steps = sorted(range(-int(height / tall), int(height / tall) + 1), key=lambda n: (abs(n), -n))
    for top in (y + n * tall for n in steps):
        hit = any(x < r and left < x + wide and top < b and t < top + tall for left, t, r, b in taken)
        if 0 <= top <= height - tall and not hit:
            return top
    return y


def _cell(picture: np.ndarray, text: str, mark: bool | None, side: int, bold: bool) -> np.ndarray:
    """One image centred in a square with its frame, and the caption below: uint8 [side+text side 3]."""
    line = max(14, side // 9)
    frame = max(3, side // 32)
    cell = Image.new("RGB", (side, side + line + 4), PAPER)
    pen = ImageDraw.Draw(cell)
    inner = Image.fromarray(photo.display(picture, side - 4 * frame))
    cell.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
    face = font(round(line * 0.72), bold=bold)
    room = side - 2 * frame
    if mark is not None:
        colour = RIGHT if mark else WRONG
        pen.rectangle((frame // 2, frame // 2, side - frame, side - frame), outline=colour, width=frame)
        text = ("✓ " if mark else "✗ ") + text
    pen.text((side / 2, side + line / 2), shorten(text, face, room), INK, face, anchor="mm")
    return np.array(cell)
