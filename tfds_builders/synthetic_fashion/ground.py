"""What is not the garment: grounds, things carried in front of it, and the light of the photograph."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tfds_builders.synthetic_fashion import paint
from tfds_builders.synthetic_fashion.world import pick


def plain(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A studio wall: one pale colour, lighter to one side."""
    color = rng.uniform(205, 250) + rng.normal(0, 5, 3)
    corners = np.clip(color + rng.normal(0, 7, (2, 2, 1)), 0, 255)
    return Image.fromarray(corners.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)


def cluttered(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A room or street: blurred colours, then things of any shape and colour, some striped."""
    coarse = np.clip(rng.uniform(50, 200) + rng.normal(0, 45, (5, 5, 3)), 0, 255).astype(np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    across = max(size)
    for _ in range(int(rng.integers(6, 15))):
        x, y = rng.uniform(-0.1, 1.05, 2) * size
        w, h = np.exp(rng.uniform(np.log(0.06), np.log(0.6), 2)) * across
        color = tuple(int(v) for v in rng.integers(20, 245, 3))
        kind = int(rng.integers(5))
        if kind == 0:
            draw.ellipse((x - w / 2, y - w / 2, x + w / 2, y + w / 2), fill=color)
        elif kind == 1:
            turn = rng.uniform(0, 2 * np.pi) + np.sort(rng.uniform(0, 2 * np.pi, 5))
            draw.polygon([(x + w * np.cos(t), y + h * np.sin(t)) for t in turn], fill=color)
        elif kind == 2:
            draw.line(
                (x, y, x + w * rng.choice((-2, 2)), y + h * 2),
                fill=color,
                width=int(across * rng.uniform(0.01, 0.06)),
            )
        else:
            draw.rectangle((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=color)
            if kind == 4:
                other = tuple(int(v) for v in rng.integers(20, 245, 3))
                for at in np.arange(x - w / 2, x + w / 2, across * 0.05):
                    draw.line((at, y - h / 2, at, y + h / 2), fill=other, width=max(1, int(across * 0.018)))
    return image


def bag(on: paint.Canvas, person: paint.Person, rng: np.random.Generator) -> None:
    """A bag carried in front of the clothes: across the body, on a shoulder, or in a hand."""
    figure, matrix = person.figure, person.matrix
    color = rng.integers(30, 220, 3)
    side = int(rng.integers(2))
    sign = 1 if side else -1
    kind = pick(rng, ("cross", "shoulder", "hand"))
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    half, height = rng.uniform(0.4, 0.75), rng.uniform(0.6, 1.15)
    if kind == "hand":
        handle = figure.arms[side].tip
        top = handle + (0, 0.3)
        strap = np.array([top + (-half * 0.6, 0), handle, top + (half * 0.6, 0)])
    else:
        from_side = -sign if kind == "cross" else sign
        top = np.array([sign * rng.uniform(0.7, 1.0), rng.uniform(1.9, 2.8)])
        strap = np.array([(from_side * 0.62, 0.1), top])
    box = top + np.array([(-half, 0), (half, 0), (half * 0.95, height), (-half * 0.95, height)])
    code = paint.BODY["bag"]
    paint.line(on, paint.to_pixels(matrix, strap), color * 0.75, 0.1 * scale, code=code)
    pixels = paint.to_pixels(matrix, box)
    paint.fill(on, pixels, color, code)
    paint.line(on, np.concatenate([pixels, pixels[:1]]), color * 0.6, 0.05 * scale)
    flap = top + np.array([(-half, 0), (half, 0), (half * 0.9, height * 0.42), (-half * 0.9, height * 0.42)])
    paint.fill(on, paint.to_pixels(matrix, flap), color * 0.85, code)


def phone(on: paint.Canvas, person: paint.Person, rng: np.random.Generator) -> None:
    """A telephone in a hand, as in images taken in a mirror."""
    side = int(rng.integers(2))
    centre = person.figure.arms[side].tip
    box = centre + np.array([(-0.17, -0.34), (0.17, -0.34), (0.17, 0.34), (-0.17, 0.34)])
    paint.fill(on, paint.to_pixels(person.matrix, box), rng.integers(10, 60, 3))


def photograph(rng: np.random.Generator, image: Image.Image, consumer: bool) -> Image.Image:
    """Light and lens: a mild grade for a shop, uneven coloured light, blur and noise for a consumer."""
    width, height = image.size
    if not consumer:
        gain = rng.uniform(0.93, 1.05)
        return image.point([min(255, int(v * gain)) for v in range(256)] * 3)
    if rng.random() < 0.6:
        image = image.filter(
            ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.75)) * max(width, height) / 128)
        )
    coarse = rng.uniform(0.72, 1.2) * (1 + rng.normal(0, 0.12, (3, 3)))
    light = np.asarray(
        Image.fromarray(coarse.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    )
    tint = (1 + rng.normal(0, 0.05, 3)).astype(np.float32)
    grain = rng.integers(-7, 8, (height, width, 1), dtype=np.int8)
    lit = np.asarray(image) * light[..., None] * tint + grain
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
