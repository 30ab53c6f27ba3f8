"""Mask R-CNN against its twin in PyTorch (benchmarks/torch_detection.py): every stage, every loss, gradients.

The twin is given the anchors and RoIs that were drawn here.
"""

from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from fashionjax.models.backbones.resnet import ResNet
from fashionjax.models.detection import rcnn, roi_heads, rpn
from fashionjax.models.detection.settings import CURRENT, MASK_RCNN
from fashionjax.models.detection.torch_keys import detectron2
from fashionjax.ops import boxes, masks, matching
from fashionjax.parity.results import relative_l2
from fashionjax.weights.key_maps import unfill

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.full
BOUND = 1e-4  # relative L2, as of the recorded outputs
H, W, CLASSES = 64, 96, 3
SETTINGS = MASK_RCNN._replace(
    geometry=CURRENT._replace(roi_samples=2),
    anchor_scale=4,
    anchors_sampled=48,
    rois_sampled=20,
    candidates_train=60,
    proposals_train=40,
    mask_pool=6,
    box_pool=4,
)


@pytest.fixture(scope="module")
def twins(drawn):
    from benchmarks import torch_detection

    backbone = ResNet(depth=50, width=4, stride_in_1x1=True, frozen_bn=True)
    model = rcnn.RCNN(backbone, CLASSES, SETTINGS, channels=8, box_width=12, mask_convolutions=2)
    image = np.random.default_rng(0).integers(0, 256, (2, H, W, 3)).astype(np.uint8)
    size = np.array([[H, W]] * 2, np.int32)
    variables = drawn(model, image, size)
    twin = torch_detection.Detector(model)
    state = {key: torch.from_numpy(np.array(x)) for key, x in unfill(variables, detectron2(model)).items()}
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)
    return model, variables, twin.eval(), image, size


def truth():
    box = np.float32([[[6, 8, 40, 44], [30, 20, 92, 60]], [[3, 3, 50, 61], [0, 0, 9, 9]]])
    valid = np.array([[True, True], [True, False]])
    mask = np.zeros((2, 2, H, W), bool)
    for i, j in zip(*np.nonzero(valid)):
        x0, y0, x1, y1 = box[i, j].astype(int)
        mask[i, j, y0 : (y0 + y1) // 2, x0:x1] = True
    return rcnn.Truth(box, np.array([[2, 0], [1, 0]]), valid, mask)


def close(got, want, bound=BOUND):
    assert relative_l2(np.asarray(got), want.detach().numpy()) < bound


def test_stages(twins):
    model, variables, twin, image, size = twins
    call = partial(model.apply, variables)
    pixels = torch.from_numpy(
        np.array(rearrange(call(image, size, method="normalise"), "b h w c -> b c h w"))
    )
    with torch.no_grad():
        maps = twin.backbone(pixels)
        ours = call(image, size, method="maps")
        for got, want in zip(ours, maps, strict=True):
            close(rearrange(got, "b h w c -> b c h w"), want)
        _, logits, deltas = call(ours, method="rpn_flat")
        for logit, delta, (their_logit, their_delta) in zip(logits, deltas, twin.rpn(maps), strict=True):
            close(logit, their_logit)
            close(delta, their_delta)
        box = np.float32([[[4, 6, 30, 40], [10, 2, 90, 60], [0, 0, 95, 63]]] * 2)
        both = [torch.from_numpy(b) for b in box]
        pooled = call(ours, box, size, 4, method="pool")
        close(rearrange(pooled, "b n h w c -> (b n) c h w"), twin.pool(maps, both, 4))
        scores, delta = call(ours, box, size, 0, method="box_outputs")
        their_scores, their_delta = twin.box_outputs(twin.pool(maps, both, 4))
        close(rearrange(scores, "b n k -> (b n) k"), their_scores)
        close(rearrange(delta, "b n k xywh -> (b n) k xywh"), their_delta)
        logits = call(ours, box, size, method="mask_logits")
        close(rearrange(logits, "b n h w k -> (b n) k h w"), twin.mask_logits(twin.pool(maps, both, 6)))


def draws(model, variables, image, size, truth, keys):
    """What `rcnn.losses` draws for each image: anchors, their sample and matches, RoIs, mask targets."""
    maps = model.apply(variables, image, size, method="maps")
    levels, *_ = model.apply(variables, maps, method="rpn_flat")
    proposals = model.apply(variables, maps, size, method="propose", train=True)
    anchor = np.concatenate([level.anchor for level in levels])
    identity = np.concatenate([level.identity for level in levels])
    found = []
    for i in range(len(image)):
        first, second = jax.random.split(keys[i], 2)
        match = matching.match(
            boxes.iou(anchor, truth.box[i]),
            truth.valid[i],
            high=SETTINGS.anchor_foreground,
            low=SETTINGS.anchor_background,
            low_quality=0.0,
        )
        sample = matching.sample(
            match.label,
            matching.priorities(first, identity),
            count=SETTINGS.anchors_sampled,
            foreground_share=SETTINGS.anchor_foreground_share,
        )
        own = rpn.Proposals(*(x[i] for x in proposals))
        rois = roi_heads.sample(SETTINGS, CLASSES, own, truth.box[i], truth.label[i], truth.valid[i], second)
        target = masks.bitmap_targets(truth.mask[i], rois.truth, rois.box, size=2 * SETTINGS.mask_pool)
        found.append((anchor, sample, np.asarray(match.index), rois, np.asarray(target)))
    return found


def twin_losses(twin, pixels, truth, found):
    from benchmarks import torch_detection as other

    maps = twin.backbone(pixels)
    logits, deltas = (torch.cat(x, 1) for x in zip(*twin.rpn(maps)))
    total = dict.fromkeys(("rpn_cls", "rpn_loc"), 0.0)
    rois, labels, matched, mask_rois, mask_labels, targets = [], [], [], [], [], []
    for i, (anchor, sample, index, roi, target) in enumerate(found):
        valid, count = np.asarray(sample.valid), int(np.sum(sample.foreground))
        rows = torch.from_numpy(np.asarray(sample.index)[valid].astype(np.int64))
        wanted = torch.from_numpy(truth.box[i][index[rows.numpy()[:count]]])
        terms = other.rpn_losses(
            SETTINGS, torch.from_numpy(anchor), logits[i], deltas[i], rows, count, wanted
        )
        total["rpn_cls"] = total["rpn_cls"] + terms[0]
        total["rpn_loc"] = total["rpn_loc"] + terms[1]
        valid, count = np.asarray(roi.valid), int(np.sum(roi.foreground))
        rois.append(torch.from_numpy(np.array(roi.box)[valid]))
        labels.append(torch.from_numpy(np.asarray(roi.label)[valid].astype(np.int64)))
        matched.append(torch.from_numpy(truth.box[i][np.asarray(roi.truth)[valid]]))
        mask_rois.append(rois[-1][:count])
        mask_labels.append(labels[-1][:count])
        targets.append(torch.from_numpy(target[:count].astype(np.float32)))
    total = {name: value / (SETTINGS.anchors_sampled * len(found)) for name, value in total.items()}
    scores, delta = twin.box_outputs(twin.pool(maps, rois, SETTINGS.box_pool))
    box = torch.cat(rois)
    terms = other.roi_losses(SETTINGS, scores, delta, box, torch.cat(labels), torch.cat(matched))
    total |= {"cls": terms[0] / len(box), "box_reg": terms[1] / len(box)}
    logits = twin.mask_logits(twin.pool(maps, mask_rois, SETTINGS.mask_pool))
    target = torch.cat(targets)
    return total | {"mask": other.mask_loss(logits, torch.cat(mask_labels), target) / len(target)}


def test_losses_and_gradients(twins):
    model, variables, twin, image, size = twins
    known, keys = truth(), jax.random.split(jax.random.key(3), 2)
    target = partial(masks.bitmap_targets, size=2 * SETTINGS.mask_pool)

    def ours(params):
        terms, _ = rcnn.losses(model, variables | {"params": params}, image, size, known, keys, target)
        return sum(terms.values()), terms

    (_, terms), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(variables["params"])
    pixels = model.apply(variables, image, size, method="normalise")
    pixels = torch.from_numpy(np.array(rearrange(pixels, "b h w c -> b c h w")))
    theirs = twin_losses(twin, pixels, known, draws(model, variables, image, size, known, keys))
    assert set(theirs) == set(terms)
    for name, value in theirs.items():
        np.testing.assert_allclose(terms[name], value.item(), rtol=BOUND, err_msg=name)
    sum(theirs.values()).backward()
    statistics = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    named = unfill({"params": jax.device_get(gradient), "batch_stats": statistics}, detectron2(model))
    compared = [(named[key], p.grad.numpy()) for key, p in twin.named_parameters() if p.grad is not None]
    got, want = (np.concatenate([x.ravel() for x in side]) for side in zip(*compared))
    assert np.linalg.norm(want) > 0 and relative_l2(got, want) < 1e-3
    assert len(compared) == len(flax.traverse_util.flatten_dict(gradient))
