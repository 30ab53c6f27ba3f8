"""The detection task on a tiny model: padding and devices change nothing, a run from training to cut-outs."""

import json

import jax
import numpy as np
import optax
import pytest
from close import relative_rounding
from PIL import Image

from experiments import cascade, mask_rcnn
from fashionjax import evaluate, segment, tasks, train
from fashionjax.data import builders, detection, masks, source
from fashionjax.data.detections import found_in
from fashionjax.errors import UserError
from fashionjax.inference import segmenter
from fashionjax.models.detection import rcnn
from fashionjax.runtime import checkpoint, parallel, state
from fashionjax.task import AXIS, Context
from fashionjax.tasks.detection import make_model, make_settings

LAYERS = 20  # of the networks here, heads included

SIZES = {"train": "16", "val": "8", "test": "8", "size": "64"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("instances")
    builders.prepare("synthetic_fashion/instances", data_dir=folder, overrides=SIZES, progress=False)
    return folder


def tiny(data_dir, system=mask_rcnn, arguments="tiny=true"):
    config = system.get_config(arguments)
    config.dataset, config.data_dir = "synthetic_fashion/instances", str(data_dir)
    config.model.backbone_fields.width, config.model.channels, config.model.box_width = 4, 8, 16
    config.model.mask_convolutions = 1
    config.batch_size, config.steps = 8, 2
    config.labels = source.open_split(config.dataset, "train", data_dir).labels
    return config


def batch_of(task, split, records, config):
    rng = [np.random.default_rng(r) for r in records]
    return [task.preprocess(split[r], g) for r, g in zip(records, rng, strict=True)]


def losses(task, params, examples, buckets, devices=1):
    """Terms of the loss, averaged over `devices` as the step does."""
    batch = detection.collate(examples, buckets)
    n = len(examples)
    batch |= {"slot": np.arange(n, dtype=np.int32), "example_weight": np.ones(n, np.float32)}
    batch |= {"example_valid": np.ones(n, bool)}
    split = jax.tree.map(lambda x: x.reshape(devices, n // devices, *x.shape[1:]), batch)
    run = jax.vmap(
        lambda b: jax.lax.pmean(task.loss(params, {}, b, jax.random.PRNGKey(3))[1][1], AXIS), axis_name=AXIS
    )
    return jax.tree.map(lambda x: np.asarray(x)[0], jax.jit(run)(split))


@pytest.mark.slow
def test_padding_and_devices_do_not_change_the_loss(data_dir):
    config = tiny(data_dir)
    split = source.open_split(config.dataset, "train", data_dir)
    task = tasks.make(config)
    examples = batch_of(task, split, [0, 1], config)
    params, _ = jax.jit(task.init)(jax.random.PRNGKey(0), {})
    small = losses(task, params, examples, ((64, 64),))
    assert all(np.isfinite(value) and value > 0 for value in small.values())
    with config.unlocked():
        config.truth.objects = 20
    wider = tasks.make(config)
    padded = losses(wider, params, batch_of(wider, split, [0, 1], config), ((96, 128),), devices=2)
    bound = relative_rounding(9 * 256, layers=LAYERS)  # 3 x 3 kernels over at most 256 channels
    for name in small:
        np.testing.assert_allclose(padded[name], small[name], rtol=bound, err_msg=name)


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return train.train(tiny(data_dir), folder), folder


@pytest.mark.slow
def test_training_logs_every_term_and_evaluates(run):
    state, folder = run
    assert int(state.step) == 2
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    terms = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert terms <= set(lines[0]) and all(line["nonfinite"] == 0 for line in lines)
    measured = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[-1])
    assert {"standard/box_ap", "standard/mask_ap", "standard/mask_ap50"} <= set(measured)


@pytest.mark.slow
def test_evaluation_writes_page_and_results(run, tmp_path):
    result = evaluate.evaluate(run[1], "", tmp_path)
    assert result["n"] == 8 and result["label"] == "synthetic"
    page = json.loads((tmp_path / "report.json").read_text())
    assert page["tables"]["AP (%)"]["columns"] == ["instances", "AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert {"AP per category", "Precision and recall: boxes", "Precision and recall: masks"} <= set(
        page["tables"]
    )
    assert isinstance(json.loads((tmp_path / "detections.json").read_text()), list)


@pytest.mark.slow
def test_photos_are_segmented_and_a_second_run_goes_on(run, data_dir, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    split = source.open_split("synthetic_fashion/instances", "test", data_dir)
    (folder / "a.jpg").write_bytes(split[0]["image"])
    noise = np.random.default_rng(0).integers(0, 256, (1, 5000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "thin.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    paths = sorted(map(str, folder.iterdir()))
    model = segmenter.load(str(run[1]))
    labels = segment.labels_of(model)
    out = tmp_path / "out"
    out.mkdir()
    written = []

    def write(item, name):
        written.append(name)
        return segment.write_results(item, name, out, labels, 0.0)

    def go(paths):
        options = {"batch_size": 8, "score": 0.0, "settings": {"score": 0.0}}
        return list(segment.segment(paths, model, out, write, **options))

    errors = [error for _, error in go(paths[:2]) if error]
    assert len(errors) == 1 and "broken.jpg" in str(errors[0])
    with (out / segment.INDEX).open("a") as index:
        index.write('{"image": "cut o')  # as a kill leaves it
    go(paths)
    assert written == ["a", "thin"]
    results = json.loads(segment.write_coco(out, paths, labels).read_text())
    assert results and {r["image_id"] for r in results} <= {1, 2}
    assert all(r["segmentation"]["size"] in ([64, 64], [1, 5000]) for r in results)
    assert (out / "a.jpg").is_file() and (out / "thin.jpg").is_file()
    cuts = [np.asarray(Image.open(path)) for path in (out / "cutouts").iterdir()]
    assert cuts and all(cut.shape[2] == 4 and cut[..., 3].any() for cut in cuts)
    with pytest.raises(UserError, match="another score"):
        segment.segment(paths, model, out, write, batch_size=8, score=0.5, settings={"score": 0.5})


@pytest.mark.slow
def test_a_cascade_starts_from_a_plain_detector_and_names_what_is_fresh(data_dir, run, capsys):
    config = tiny(data_dir, cascade, "tiny=true")
    config.labels["category"] = list(config.labels["category"])[:5]
    assert make_settings(config).stage_iou == (0.5, 0.6, 0.7) and config.model.settings.class_agnostic
    fresh = state.create_state(tasks.make(config), optax.sgd(0.1), 0, {})
    started = checkpoint.initialise_from(fresh, str(run[1]), config.init_skip)
    printed = capsys.readouterr().err
    for stage in range(3):
        assert (
            f"box_predictor_{stage}/cls_score/kernel" in printed and f"box_head_{stage}/fc1/kernel" in printed
        )
    assert (
        "mask_head/predictor/kernel" in printed and "rpn_head" not in printed and "mask_fcn1" not in printed
    )
    kernel = started.params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, jax.device_get(run[0].params["backbone"]["conv1"]["kernel"]))


@pytest.mark.slow
def test_eight_devices_take_the_step_of_one(data_dir):
    """The change of the parameters by 8 images, one of them without objects and one unreadable, on 8 devices
    and on 1. Float32: the two sum a few thousand products in different orders. A second batch is not traced.

    Statistics are frozen, as published: group normalisation of maps of a few cells multiplies rounding, and
    one device then differs by 1e-4 from itself when every parameter is moved by 2^-23.
    """
    config = tiny(data_dir)
    config.model.norm, config.model.frozen_bn, config.model.fpn_norm = "batch", True, None
    split = source.open_split(config.dataset, "train", data_dir)
    task = tasks.make(config)
    examples = batch_of(task, split, range(8), config)
    examples[3]["truth_valid"][:] = False
    examples[5] = {name: np.zeros_like(value) for name, value in examples[5].items()}
    batch = detection.collate(examples, ((64, 64),))
    batch |= {"index": np.arange(8, dtype=np.int32), "example_valid": np.arange(8) != 5}
    fresh = jax.device_get(state.create_state(task, optax.sgd(1.0), 0, {}))

    def change(devices):
        traces = []

        def loss(*arguments):
            traces.append(arguments)
            return task.loss(*arguments)

        mesh = parallel.make_mesh(jax.devices()[:devices])
        step = state.make_train_step(task._replace(loss=loss), optax.sgd(1.0))
        compiled = parallel.compile_train_step(step, config.parallel, mesh)
        placed = parallel.put_batch(batch, config.parallel, mesh)
        run, scalars = compiled(parallel.replicate(fresh, mesh), placed)
        assert float(scalars["nonfinite"]) == 0
        after = jax.device_get(run.params)
        count = len(traces)
        compiled(run, placed)
        assert len(traces) == count
        moved = jax.tree.map(lambda new, old: np.float64(new) - old, after, fresh.params)
        return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])

    whole, parts = change(1), change(8)
    assert np.linalg.norm(whole) > 0
    assert np.linalg.norm(parts - whole) <= 1e-5 * np.linalg.norm(whole)


@pytest.mark.parametrize("system", [mask_rcnn, cascade])
def test_frozen_paths_of_the_recipes(system):
    config = system.get_config()
    config.labels = {"category": [f"c{i}" for i in range(13)]}
    frozen = set(config.optim.frozen)
    model = make_model(config)
    if system is cascade:
        assert frozen == set(rcnn.frozen_parameters(model))
    else:  # the scales of later stages train
        assert frozen == {r"backbone/(conv1|bn1)/", r"backbone/layer1_"}


def detections(outputs, row) -> np.ndarray:
    """Rows x1 y1 x2 y2 score category of an image's detections, in an order that ties do not decide."""
    valid = outputs["detection_valid"][row]
    rows = np.column_stack([outputs[name][row][valid] for name in ("box", "score", "category")])
    return rows[np.lexsort(np.round(rows, 2).T)]


def records_of(found, sizes) -> list[dict]:
    """Records whose objects are every second detection of `found`, moved and cut by up to 4 px: some are hit
    at every IoU threshold, some at few, some not."""
    records = []
    for i, (each, (height, width)) in enumerate(zip(found, sizes, strict=True)):
        chosen = np.arange(0, len(each.score), 2)
        move = np.random.default_rng(i).uniform(-4, 4, (len(chosen), 4))
        box = np.clip(each.box[chosen] + move, 0, [width, height, width, height])
        segmentation = [json.dumps(masks.as_json(each.rle[n])) for n in chosen]
        instance = {"category": each.category[chosen], "box": box, "segmentation": segmentation}
        instance |= {"area": np.prod(box[:, 2:] - box[:, :2], axis=1), "iscrowd": np.zeros(len(chosen), int)}
        identity = {"image_id": f"{i}.jpg", "coco_id": i + 1, "height": height, "width": width}
        records.append(identity | {"instance": instance})
    return records


@pytest.mark.slow
def test_detections_depend_on_neither_bucket_nor_neighbours_and_a_bucket_is_one_trace(data_dir):
    config = tiny(data_dir)
    split = source.open_split(config.dataset, "test", data_dir)
    task = tasks.make(config)
    params, _ = jax.jit(task.init)(jax.random.PRNGKey(0), {})
    # scores far apart, and mask logits away from 0
    for predictor in (params["box_predictor_0"]["cls_score"], params["mask_head"]["predictor"]):
        predictor["kernel"] = 100 * predictor["kernel"]
    whole = task.preprocess(split[0], None)
    low = task.preprocess({"image": whole["image"][:40]}, None)  # 40 x 64
    predict = jax.jit(lambda batch: task.predict(params, {}, batch))
    buckets = ((64, 64), (96, 128))
    batch = detection.collate([whole, low], buckets)
    first = jax.device_get(predict(batch))
    swapped = jax.device_get(predict(detection.collate([low, whole], buckets)))
    larger = jax.device_get(predict(detection.collate([whole, low], buckets[1:])))
    assert predict._cache_size() == 2
    for row in (0, 1):
        expected = detections(first, row)
        assert len(expected)
        # coordinates of up to 64 px behind the layers of the network
        bound = 64 * relative_rounding(9 * 256, layers=LAYERS)
        np.testing.assert_allclose(detections(swapped, 1 - row), expected, rtol=0, atol=bound)
        np.testing.assert_allclose(detections(larger, row), expected, rtol=0, atol=bound)

    sizes = batch["size"].tolist()
    found = [found_in({k: v[row] for k, v in first.items()}, sizes[row], sizes[row]) for row in (0, 1)]
    records = records_of(found, sizes)
    batch |= {"index": np.arange(2), "example_valid": np.ones(2, bool), "original_size": batch["size"]}

    def figures(outputs):
        metrics = task.metrics(Context(record=records.__getitem__))
        metrics.update(outputs, batch)
        return metrics.result()

    expected = figures(first)
    assert 0.05 < expected["standard/box_ap"] < 0.95 and 0.05 < expected["standard/mask_ap"] < 0.95, expected
    assert figures(larger) == expected
    assert figures({name: value[::-1] for name, value in swapped.items()}) == expected


def test_settings_name_fields_that_are_missing(data_dir):
    config = tiny(data_dir)
    with config.unlocked():
        del config.model.settings.anchor_beta
    with pytest.raises(UserError, match="settings: anchor_beta"):
        make_settings(config)
