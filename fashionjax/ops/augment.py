"""Augmentation on the device: one example, lifted by `jax.vmap`, jitted by the caller.

A crop, a flip and a resize are separable, so an image is moved by one weight matrix per axis and every label
(landmarks, boxes, masks) by the same crop. Images come in as uint8 and leave as normalised floats.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red; of ImageNet, in 0..255
# what `normalise` makes of an image: torchvision's form, or that of Caffe's VGG, which Keras kept
IMAGENET, CAFFE = NORMALISATIONS = ("imagenet", "caffe")
GREY = (0.299, 0.587, 0.114)
TRIES = 10


class AugmentSettings(NamedTuple):
    """What `augment` does. All numbers are Python numbers, fixed when the step is compiled."""

    out_hw: tuple[int, int] = (224, 224)
    scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a crop covers
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a crop
    flip: float = 0.5  # probability
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # in turns, at most 0.5
    erase: float = 0.0  # probability
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    move_landmark: bool = True  # False: landmarks stay where they were before crop and flip (quirk S2)
    landmark_flip: tuple[tuple[int, int], ...] | None = None  # (left, right) slots, as for `flip_order`
    dtype: str = "float32"  # of the image that leaves
    normalisation: str = IMAGENET


def _random_box(rng, hw, scale, ratio):
    """TRIES random boxes, the first that fits: (found, box xyxy [4]) of whole pixels, as float32."""
    h, w = hw[0].astype(jnp.float32), hw[1].astype(jnp.float32)
    area_key, ratio_key, x_key, y_key = jax.random.split(rng, 4)
    area = h * w * jax.random.uniform(area_key, (TRIES,), minval=scale[0], maxval=scale[1])
    low, high = jnp.log(ratio[0]), jnp.log(ratio[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, (TRIES,), minval=low, maxval=high))
    box_w = jnp.round(jnp.sqrt(area * aspect))
    box_h = jnp.round(jnp.sqrt(area / aspect))
    fits = (box_w > 0) & (box_w <= w) & (box_h > 0) & (box_h <= h)
    first = jnp.argmax(fits)
    box_w, box_h = box_w[first], box_h[first]
    x = jnp.floor(jax.random.uniform(x_key) * (w - box_w + 1))
    y = jnp.floor(jax.random.uniform(y_key) * (h - box_h + 1))
    return fits.any(), jnp.stack([x, y, x + box_w, y + box_h])


def random_resized_crop_box(rng, hw, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """hw [2] (may be traced) -> crop xyxy [4] float32 of whole pixels, drawn by torchvision's
    RandomResizedCrop rule.

    Area uniform in `scale`, log of width / height uniform in `ratio`, ten tries; when none fits, the largest
    central crop whose ratio is within `ratio`.
    """
    hw = jnp.asarray(hw)
    found, box = _random_box(rng, hw, scale, ratio)
    h, w = hw[0].astype(jnp.float32), hw[1].astype(jnp.float32)
    # Of an image that is too narrow keep the width, of one that is too wide the height.
    full_h = jnp.where(w / h < ratio[0], jnp.round(w / ratio[0]), h)
    full_w = jnp.where(w / h > ratio[1], jnp.round(h * ratio[1]), w)
    x, y = jnp.floor((w - full_w) / 2), jnp.floor((h - full_h) / 2)
    return jnp.where(found, box, jnp.stack([x, y, x + full_w, y + full_h]))


def resize_matrix(start, stop, out: int, size: int, low, high, flip=False):
    """Weights [out size] that resample the pixels between `start` and `stop` (floats, may be traced) to
    `out` pixels.

    Equal to Pillow's antialiased BILINEAR: a triangle of half-width max(1, (stop - start) / out) around each
    output centre, over source pixels low <= i < high only, normalised. flip reverses the output.
    """
    scale = (stop - start) / out
    place = jnp.arange(out) + 0.5
    place = jnp.where(flip, out - place, place)
    # Both positions are in units of the triangle's half-width.
    inverse = 1 / jnp.maximum(scale, 1.0)
    centre = (start + place * scale) * inverse
    source = jnp.arange(size)
    source = jnp.where((source >= low) & (source < high), (source + 0.5) * inverse, -1e6)
    weight = jnp.maximum(1 - jnp.abs(source[None, :] - centre[:, None]), 0)
    # The sum as a product: a reduction fused with the division below would compute every weight twice.
    total = jnp.einsum("oi,i->o", weight, jnp.ones(size), precision="highest")
    return weight * (1 / jnp.maximum(total, 1e-12))[:, None]


def _crop_matrices(hw, crop, flip, out_hw, image_hw, within_crop):
    """The two matrices ([out_h h], [out_w w]) of one crop; source pixels from the crop or from the whole
    image.
    """
    x0, y0, x1, y1 = crop[0], crop[1], crop[2], crop[3]
    bounds_y = (jnp.floor(y0), jnp.ceil(y1)) if within_crop else (0, image_hw[0])
    bounds_x = (jnp.floor(x0), jnp.ceil(x1)) if within_crop else (0, image_hw[1])
    rows = resize_matrix(y0, y1, out_hw[0], hw[0], *bounds_y)
    columns = resize_matrix(x0, x1, out_hw[1], hw[1], *bounds_x, flip)
    return rows, columns


def crop_flip_resize(image, crop, flip, out_hw, image_hw=None, *, within_crop=True):
    """image [h w c] any real dtype, crop xyxy [4] in pixels -> [out_h out_w c] float32 in the range of
    `image`.

    within_crop=True resamples the crop alone, as Pillow's crop() then resize() (torchvision); False lets the
    filter reach past the crop's edge, as Pillow's resize(box=crop). image_hw: the part of the canvas that
    holds the image.
    """
    h, w, _ = image.shape
    rows, columns = _crop_matrices(
        (h, w), crop, flip, out_hw, (h, w) if image_hw is None else image_hw, within_crop
    )
    plane = jnp.moveaxis(image, -1, 0).astype(jnp.float32)
    plane = jnp.einsum("chw,pw->chp", plane, columns, precision="highest")
    return jnp.einsum("oh,chp->opc", rows, plane, precision="highest")


def crop_flip_resize_mask(mask, crop, flip, out_hw, image_hw=None):
    """mask [n h w] of 0/1 (any dtype) -> [n out_h out_w] of the same dtype: a pixel is set when at least
    half is.
    """
    moved = crop_flip_resize(jnp.moveaxis(mask, 0, -1), crop, flip, out_hw, image_hw)
    return (jnp.moveaxis(moved, -1, 0) >= 0.5).astype(mask.dtype)


def crop_flip_points(point, crop, flip, image_hw):
    """point [k 2] xy in [0, 1] of the image -> (xy [k 2] in [0, 1] of the crop, inside [k] bool).

    Points that leave the crop keep their coordinates outside [0, 1]. Left and right are not exchanged (see
    `flip_landmark`).
    """
    image_wh = jnp.asarray(image_hw)[::-1].astype(jnp.float32)
    corner, extent = crop[:2], crop[2:] - crop[:2]
    moved = (point * image_wh - corner) / extent
    x = jnp.where(flip, 1 - moved[:, 0], moved[:, 0])
    moved = jnp.stack([x, moved[:, 1]], axis=1)
    return moved, jnp.all((moved >= 0) & (moved <= 1), axis=1)


def crop_flip_boxes(box, crop, flip, out_hw):
    """box [... 4] xyxy pixels of the image -> (box [... 4] in pixels of the output, clipped; valid [...]
    bool).

    valid is False where nothing of the box is left inside the crop; such a box has no area.
    """
    out_wh = jnp.asarray(out_hw[::-1], jnp.float32)
    scale = out_wh / (crop[2:] - crop[:2])
    low = (box[..., :2] - crop[:2]) * scale
    high = (box[..., 2:] - crop[:2]) * scale
    left = jnp.where(flip, out_wh[0] - high[..., 0], low[..., 0])
    right = jnp.where(flip, out_wh[0] - low[..., 0], high[..., 0])
    moved = jnp.stack([left, low[..., 1], right, high[..., 1]], axis=-1)
    moved = jnp.clip(moved, 0, jnp.tile(out_wh, 2))
    valid = (moved[..., 2] > moved[..., 0]) & (moved[..., 3] > moved[..., 1])
    return moved, valid


def flip_order(slots: int, pairs: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """[slots] i32: which slot each takes its value from in a mirrored image. `pairs` are the (left, right)
    slots that a flip exchanges; None: neighbours, (0, 1), (2, 3), …, of the DeepFashion releases."""
    order = np.arange(slots, dtype=np.int32)
    for left, right in zip(order[::2], order[1::2]) if pairs is None else pairs:
        order[left], order[right] = right, left
    return order


def flip_landmark(value, flip, pairs: Sequence[Sequence[int]] | None = None):
    """Exchange the left and right slots of value [k ...] where flip is true (`flip_order`)."""
    return jnp.where(flip, value[flip_order(value.shape[0], pairs)], value)


def _grey(image):
    return jnp.einsum("hwc,c->hw", image, jnp.asarray(GREY), precision="highest")[..., None]


def shift_hue(image, turns):
    """image [h w 3] in [0, 1] with its HSV hue turned by `turns` (1: full circle), the rest kept."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(axis=-1)
    chroma = value - image.min(axis=-1)
    inverse = 1 / jnp.where(chroma > 0, chroma, 1)
    sector = jnp.where(
        value == r,
        (g - b) * inverse,
        jnp.where(value == g, (b - r) * inverse + 2, (r - g) * inverse + 4),
    )
    # HSV to RGB in closed form: channel n is value - chroma * clip(min(k, 4 - k), 0, 1), k = (n + sector)
    # mod 6. The floor in place of % is four times faster on CPUs.
    k = (jnp.asarray([5.0, 3.0, 1.0]) + 6 * turns + sector[..., None]) * (1 / 6)
    k = 6 * (k - jnp.floor(k))
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def colour_jitter(rng, image, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0):
    """image [h w 3] float in [0, 1] -> the same range. Factors as torchvision's ColorJitter draws them.

    Brightness, contrast and saturation factors are uniform in [max(0, 1 - v), 1 + v], the hue turn in [-v,
    v]. The order is fixed (torchvision shuffles it). Settings of 0 cost nothing.
    """
    keys = jax.random.split(rng, 4)

    def factor(key, amount):
        return jax.random.uniform(key, minval=max(0.0, 1.0 - amount), maxval=1.0 + amount)

    if brightness:
        image = jnp.clip(image * factor(keys[0], brightness), 0, 1)
    if contrast:
        mean = _grey(image).mean()
        image = jnp.clip(mean + (image - mean) * factor(keys[1], contrast), 0, 1)
    if saturation:
        grey = _grey(image)
        image = jnp.clip(grey + (image - grey) * factor(keys[2], saturation), 0, 1)
    if hue:
        image = shift_hue(image, jax.random.uniform(keys[3], minval=-hue, maxval=hue))
    return image


def random_erase(rng, image, probability=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0.0):
    """image [h w c] -> the same with one random rectangle set to `value` (torchvision's RandomErasing rule).

    After `normalise` the value 0 is the mean colour. When no rectangle fits in ten tries the image is
    unchanged.
    """
    decide, place = jax.random.split(rng)
    h, w, _ = image.shape
    found, box = _random_box(place, jnp.asarray([h, w]), scale, ratio)
    row, column = jnp.arange(h)[:, None], jnp.arange(w)[None, :]
    inside = (column >= box[0]) & (column < box[2]) & (row >= box[1]) & (row < box[3])
    erase = found & (jax.random.uniform(decide) < probability)
    return jnp.where((inside & erase)[..., None], jnp.asarray(value, image.dtype), image)


def mix(rng, batch: Mapping, mixup: float = 0.0, cutmix: float = 0.0) -> tuple:
    """Blends neighbours: example 2i with 2i + 1, each drawing from fold_in(rng, slot).

    batch: image [b h w 3] normalised, slot [b], example_weight [b] -> (image, share [b] of the example's own
    image, partner [b]: the row whose image has the rest). `mixup` and `cutmix` are the probabilities of a
    blend over all pixels and of a pasted box, with a share uniform in [0, 1] (Beta(1, 1) of Zhang et al. 2018
    and Yun et al. 2019). Unreadable examples (weight 0) are no partners, and the last of an odd number has
    none; the pairs do not depend on how many devices share a batch while each has an even number.
    """
    image = batch["image"]
    count, h, w = image.shape[:3]
    partner = jnp.minimum(jnp.arange(count) ^ 1, count - 1)

    def draw(slot):
        kind_key, share_key, y_key, x_key = jax.random.split(jax.random.fold_in(rng, slot), 4)
        kind, share = jax.random.uniform(kind_key), jax.random.uniform(share_key)
        side = jnp.sqrt(1 - share)
        cut_h, cut_w = jnp.round(h * side), jnp.round(w * side)
        y = jnp.floor(jax.random.uniform(y_key) * (h - cut_h + 1))
        x = jnp.floor(jax.random.uniform(x_key) * (w - cut_w + 1))
        row, column = jnp.arange(h)[:, None], jnp.arange(w)[None, :]
        inside = (row >= y) & (row < y + cut_h) & (column >= x) & (column < x + cut_w)
        pasted = jnp.where(inside, 0.0, 1.0)
        blended = jnp.full((h, w), share)
        own = jnp.where(kind < mixup, blended, jnp.where(kind < mixup + cutmix, pasted, 1.0))
        return own

    own = jax.vmap(draw)(batch["slot"])
    alone = (batch["example_weight"][partner] == 0) | (partner == jnp.arange(count))
    own = jnp.where(alone[:, None, None], 1.0, own)
    weight = own[..., None].astype(image.dtype)
    return weight * image + (1 - weight) * image[partner], own.mean(axis=(1, 2)), partner


def normalise(image, dtype="float32", form: str = IMAGENET):
    """image [... 3] in 0..255 (uint8 or float), red first -> `dtype`.

    imagenet: (image / 255 - mean) / std with ImageNet's figures. caffe: blue first, minus `CAFFE_MEAN`, as
    Keras's VGG-16 weights expect it.
    """
    if form not in NORMALISATIONS:
        raise ValueError(f"normalisation must be one of {NORMALISATIONS}, not {form!r}")
    if form == CAFFE:
        return (image[..., ::-1].astype(jnp.float32) - np.asarray(CAFFE_MEAN, np.float32)).astype(dtype)
    mean, std = np.asarray(IMAGENET_MEAN), np.asarray(IMAGENET_STD)
    scale, offset = np.float32(1 / (255 * std)), np.float32(-mean / std)
    return (image.astype(jnp.float32) * scale + offset).astype(dtype)


def prepare_eval(example: Mapping, dtype="float32", form: str = IMAGENET) -> dict:
    """The example (one, or a whole batch) with its image normalised and nothing else changed."""
    return {**example, "image": normalise(example["image"], dtype, form)}


def _move_landmarks(example, crop, flip, image_hw, pairs):
    """The example's landmark (and visibility), moved; slots that the garment does not use stay at (0, 0)."""
    landmark = example["landmark"]
    used = jnp.any(landmark != 0, axis=1)
    moved, inside = crop_flip_points(landmark, crop, flip, image_hw)
    result = {
        "landmark": flip_landmark(jnp.where(used[:, None], moved, 0).astype(landmark.dtype), flip, pairs)
    }
    if "visibility" in example:
        visibility = example["visibility"]
        result["visibility"] = flip_landmark(
            jnp.where(inside, visibility, jnp.zeros_like(visibility)), flip, pairs
        )
    if "landmark_state" in example:
        result["landmark_state"] = flip_landmark(example["landmark_state"], flip, pairs)
    return result


def augment(rng, example: Mapping, settings: AugmentSettings | Mapping = AugmentSettings()) -> dict:  # noqa: B008
    """Random crop, flip, colour and erasing of one example; every label present moves with the image.

    example: image [h w 3] uint8, and any of landmark [k 2] xy in [0, 1], visibility [k] (1 visible),
    landmark_state [k] (DeepFashion's code: slots change places in a flip, values stay), box [4] or [n 4] xyxy
    pixels, mask [h w] or [n h w] of 0/1, image_hw [2] (height and width of the image when it fills only the
    top-left of the canvas; becomes out_hw). Returns the same keys, image [out_h out_w 3]
    normalised. A box adds `box_valid` (False once nothing is left of it; combined with one that was there).
    Other keys pass unchanged.
    """
    settings = settings if isinstance(settings, AugmentSettings) else AugmentSettings(**settings)
    out_hw = tuple(int(side) for side in settings.out_hw)
    crop_key, flip_key, colour_key, erase_key = jax.random.split(rng, 4)
    image = example["image"]
    image_hw = jnp.asarray(example.get("image_hw", image.shape[:2]))
    crop = random_resized_crop_box(crop_key, image_hw, settings.scale, settings.ratio)
    flip = jax.random.uniform(flip_key) < settings.flip

    moved = crop_flip_resize(image, crop, flip, out_hw, image_hw)
    colour = {name: getattr(settings, name) for name in ("brightness", "contrast", "saturation", "hue")}
    if any(colour.values()):
        moved = 255 * colour_jitter(colour_key, moved / 255, **colour)
    moved = normalise(moved, form=settings.normalisation)
    if settings.erase:
        moved = random_erase(erase_key, moved, settings.erase, settings.erase_scale, settings.erase_ratio)
    result = {**example, "image": moved.astype(settings.dtype)}

    if "landmark" in example and settings.move_landmark:
        result |= _move_landmarks(example, crop, flip, image_hw, settings.landmark_flip)
    if "box" in example:
        result["box"], valid = crop_flip_boxes(example["box"], crop, flip, out_hw)
        result["box_valid"] = valid & example.get("box_valid", True)
    if "mask" in example:
        mask = example["mask"]
        stack = mask if mask.ndim == 3 else mask[None]
        stack = crop_flip_resize_mask(stack, crop, flip, out_hw, image_hw)
        result["mask"] = stack if mask.ndim == 3 else stack[0]
    if "image_hw" in example:
        result["image_hw"] = jnp.asarray(out_hw, jnp.asarray(example["image_hw"]).dtype)
    return result
