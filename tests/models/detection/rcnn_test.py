"""The detectors at a small width: padding, degenerate ground truth, gradients, conventions."""

from functools import partial

import jax
import numpy as np
import pytest
from close import assert_conditioned, assert_sums_close, rounding

from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.detection import rcnn
from fashionjax.models.detection.settings import CASCADE, LEGACY, MASK_RCNN
from fashionjax.ops import masks

CLASSES = 3
SMALL = {
    "candidates_train": 40,
    "candidates_test": 30,
    "proposals_train": 30,
    "proposals_test": 20,
    "anchors_sampled": 32,
    "rois_sampled": 16,
    "detections": 8,
    "anchor_scale": 4,
    "score_threshold": 0.01,
    "mask_pool": 4,
}
TARGET = partial(masks.bitmap_targets, size=8)


def small(settings=CASCADE, norm="group", geometry=None, **fields):
    settings = settings._replace(**SMALL, **({"geometry": geometry} if geometry else {}))
    backbone = ResNet(depth=18, width=4, norm=norm, frozen_bn=norm == "batch")
    widths = {"channels": 8, "box_width": 12, "mask_convolutions": 1}
    widths["norm"] = "group" if norm == "group" else None
    return rcnn.RCNN(backbone, CLASSES, settings, **widths, **fields)


def batch(h, w, objects=3):
    """Two images of 60 x 50 and 64 x 33 pixels in h x w, with 2 and 1 objects in `objects` slots."""
    rng = np.random.default_rng(0)
    image, size = np.full((2, h, w, 3), 77, np.uint8), np.array([[60, 50], [64, 33]], np.int32)
    for i, (rows, columns) in enumerate(size):
        image[i, :rows, :columns] = rng.integers(0, 256, (rows, columns, 3))
    box = np.full((2, objects, 4), 5, np.float32)
    box[:, :, 2:] = 9  # padding is no empty box
    valid = np.zeros((2, objects), bool)
    box[0, :2], box[1, 0] = [[4, 6, 30, 40], [20, 10, 49, 59]], [3, 3, 32, 50]
    valid[0, :2] = valid[1, 0] = True
    mask = np.zeros((2, objects, h, w), bool)
    for i, j in zip(*np.nonzero(valid)):
        x0, y0, x1, y1 = box[i, j].astype(int)
        mask[i, j, y0 : (y0 + y1) // 2, x0:x1] = True
    label = np.where(valid, [[0, 2, 1][:objects] + [1] * (objects - 3)] * 2, 1).astype(np.int32)
    return image, size, rcnn.Truth(box, label, valid, mask)


KEYS = jax.random.split(jax.random.key(7), 2)


@pytest.fixture(scope="module")
def cascade(drawn):
    image, size, _ = batch(64, 64)
    model = small()
    return model, drawn(model, image, size)


@partial(jax.jit, static_argnums=0)
def losses(model, variables, image, size, truth, keys=KEYS):
    return rcnn.losses(model, variables, image, size, truth, keys, TARGET)[0]


detect = jax.jit(rcnn.detect, static_argnums=0)


def close(got, function, *arguments):
    """`got` equals function(*arguments) within rounding: 3 x 3 kernels over at most 32 channels."""
    assert_conditioned(got, function(*arguments), function, *arguments, terms=9 * 32)


def close_losses(got, function, *arguments):
    """`close`; but a cell of a mask's target may lie on the bitmap's border and fall to either side, with a
    last bit of its box. Two of the 64 cells of three objects are let off; logits are below 1."""
    continuous = lambda found: {name: value for name, value in found.items() if name != "mask"}  # noqa: E731
    close(continuous(got), lambda *moved: continuous(function(*moved)), *arguments)
    assert abs(got["mask"] - function(*arguments)["mask"]) <= 2 / (64 * 3)


def test_names_of_losses(cascade):
    model, variables = cascade
    found = losses(model, variables, *batch(64, 64))
    stages = [f"{name}_stage{k}" for name in ("cls", "box_reg") for k in range(3)]
    assert set(found) == {"rpn_cls", "rpn_loc", "mask", *stages}
    assert all(np.isfinite(x) and x > 0 for x in found.values())


def test_padding_changes_no_loss(cascade):
    model, variables = cascade
    padded = losses(model, variables, *batch(96, 128, objects=5))
    close_losses(padded, lambda v: losses(model, v, *batch(64, 64)), variables)


@pytest.mark.slow
def test_padding_changes_no_detection(cascade):
    model, variables = cascade
    run = lambda v, shape: detect(model, v, *batch(*shape)[:2])  # noqa: E731
    one, other = (run(variables, shape) for shape in ((64, 64), (96, 128)))
    assert one.valid.sum() > 4
    assert one.label.tolist() == other.label.tolist() and one.valid.tolist() == other.valid.tolist()
    floats = lambda found: (found.box, found.score, jax.nn.sigmoid(found.mask_logits))  # noqa: E731
    close(floats(other), lambda v: floats(run(v, (64, 64))), variables)


@pytest.mark.full
def test_a_neighbour_changes_nothing(cascade):
    model, variables = cascade
    image, size, truth = batch(64, 64)
    swapped = jax.tree.map(lambda x: x[::-1], (image, size, truth))
    swapped = losses(model, variables, *swapped, KEYS[::-1])
    close_losses(swapped, lambda v: losses(model, v, image, size, truth), variables)

    def first(variables, image, size, row=0):
        return jax.tree.map(lambda x: x[row], detect(model, variables, image, size)[:2])

    close(first(variables, image[::-1], size[::-1], 1), first, variables, image, size)


def test_images_without_objects_train_the_background_alone(cascade):
    model, variables = cascade
    image, size, truth = batch(64, 64)
    found = losses(model, variables, image, size, truth._replace(valid=np.zeros_like(truth.valid)))
    assert all(float(found[name]) == 0 for name in found if "box_reg" in name or name in ("mask", "rpn_loc"))
    assert found["rpn_cls"] > 0 and found["cls_stage2"] > 0


@pytest.mark.slow
def test_objects_without_a_mask_are_no_targets(cascade):
    """The second object of the first image has a box alone: whatever its mask holds is not read."""
    model, variables = cascade
    image, size, truth = batch(64, 64)
    masked = truth.valid.copy()
    masked[0, 1] = False
    other = truth.mask.copy()
    other[0, 1] = ~other[0, 1]
    one = losses(model, variables, image, size, truth._replace(masked=masked))
    assert one == losses(model, variables, image, size, truth._replace(masked=masked, mask=other))
    whole = losses(model, variables, image, size, truth._replace(masked=truth.valid))
    assert one["mask"] != whole["mask"] and one["cls_stage0"] == whole["cls_stage0"]
    none = losses(model, variables, image, size, truth._replace(masked=np.zeros_like(masked)))
    assert none["mask"] == 0


def test_an_object_outside_of_the_image_is_harmless(cascade):
    model, variables = cascade
    image, size, truth = batch(64, 64)
    box = truth.box.copy()
    box[1, 0] = [500, 500, 600, 600]
    found = losses(model, variables, image, size, truth._replace(box=box))
    assert all(np.isfinite(x) for x in found.values())


@pytest.mark.full
def test_gradients_are_finite_and_reach_every_parameter(cascade):
    model, variables = cascade
    image, size, truth = batch(64, 64)

    def total(params):
        return sum(losses(model, variables | {"params": params}, image, size, truth).values())

    gradient = jax.jit(jax.grad(total))(variables["params"])
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert all(np.isfinite(x).all() for _, x in leaves)
    still = {jax.tree_util.keystr(path, simple=True, separator="/") for path, x in leaves if not np.any(x)}
    assert all(path.startswith("fpn/output5") for path in still)  # no RoI of a 64 px image is pooled from p5


def test_a_cascade_scales_what_flows_into_its_features():
    gradient = jax.grad(lambda x: rcnn.roi_heads.scale_gradient(x, 1 / 3) ** 2)(3.0)
    assert gradient == pytest.approx(2.0, abs=rounding(3, scale=3))


@pytest.mark.slow
def test_frozen_stages_get_no_gradient_and_are_named(drawn):
    image, size, truth = batch(64, 64)
    model = small(MASK_RCNN, norm="batch")
    model = model.clone(backbone=model.backbone.clone(frozen_stages=1))
    variables = drawn(model, image, size)

    def total(params):
        return sum(losses(model, variables | {"params": params}, image, size, truth).values())

    gradient = jax.jit(jax.grad(total))(variables["params"])["backbone"]
    still = {name for name, part in gradient.items() if not any(np.any(x) for x in jax.tree.leaves(part))}
    assert still == {"conv1", "bn1", "layer1_0", "layer1_1"}
    patterns = rcnn.frozen_parameters(model)
    assert r"backbone/layer1_" in patterns and r"backbone/(conv1|bn1)/" in patterns
    assert r"backbone/layer\d_\d+/(bn\d|downsample_1)/" in patterns


@pytest.mark.full
def test_trained_batch_statistics_leave_padding_out(drawn):
    image, size, truth = batch(64, 64)
    model = small(MASK_RCNN)
    model = model.clone(backbone=ResNet(depth=18, width=4))
    variables = drawn(model, image, size)
    run = jax.jit(lambda v, *a: rcnn.losses(model, v, *a, KEYS, TARGET))
    one, other = run(variables, image, size, truth), run(variables, *batch(96, 128))
    close_losses(other[0], lambda v: run(v, image, size, truth)[0], variables)
    close(other[1], lambda v: run(v, image, size, truth)[1], variables)
    before = variables["batch_stats"]["backbone"]["bn1"]["mean"]
    assert np.abs(one[1]["backbone"]["bn1"]["mean"] - before).max() > 1e-3


@pytest.mark.full
def test_legacy_conventions_run_and_differ(drawn):
    image, size, truth = batch(64, 64)
    model = small(MASK_RCNN, geometry=LEGACY)
    variables = drawn(model, image, size)
    assert variables["params"]["box_predictor_0"]["bbox_pred"]["kernel"].shape[1] == 4 * (CLASSES + 1)
    padded = losses(model, variables, *batch(96, 128))
    close_losses(padded, lambda v: losses(model, v, image, size, truth), variables)
    one = detect(model, variables, image, size)
    unaligned = model.clone(settings=model.settings._replace(geometry=LEGACY._replace(aligned_rois=True)))
    assert np.abs(one.score - detect(unaligned, variables, image, size).score).max() > 1e-5
    limit = np.array([[49, 59], [32, 63]])[:, None]
    assert (one.box[..., 2:] <= limit).all()  # the last pixel, not the border


def test_background_first_is_a_permutation_of_the_head(drawn):
    feature = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    head = rcnn.roi_heads.BoxPredictor(CLASSES, background_first=True)
    variables = drawn(head, feature)
    logits, delta = head.apply(variables, feature)
    params = variables["params"]
    raw = feature @ params["cls_score"]["kernel"] + params["cls_score"]["bias"]
    assert_sums_close(logits, raw[:, [1, 2, 3, 0]], terms=6)
    raw = feature @ params["bbox_pred"]["kernel"] + params["bbox_pred"]["bias"]
    assert_sums_close(delta.reshape(5, -1), raw[:, 4:], terms=6)


def test_sides_must_be_multiples_of_32(cascade):
    model, variables = cascade
    with pytest.raises(ValueError, match="multiples of 32"):
        model.apply(variables, np.zeros((1, 60, 64, 3)), np.array([[60, 64]]))
