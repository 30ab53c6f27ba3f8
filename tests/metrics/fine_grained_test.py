"""Attribute-specific retrieval: the original's stored figures, an example by hand, its corners."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fashionjax.errors import UserError
from fashionjax.metrics import fine_grained as metrics
from fashionjax.task import Context

GOLDEN = np.load(Path(__file__).parent.parent / "fixtures" / "metrics" / "rpf_map.npz")
NAMES = {"attribute": ["collar", "hem", "cuff"]}


def stream(embedding, attribute, value, role, **more):
    n = len(attribute)
    batch = {"attribute": attribute, "value": value, "role": role, "index": np.arange(n)}
    batch = {name: np.asarray(column, np.int32) for name, column in batch.items()}
    batch |= {"example_valid": np.ones(n, bool)} | {k: v for k, v in more.items() if k == "part_box"}
    prediction = {"embedding": np.asarray(embedding, np.float32)}
    return prediction | {k: v for k, v in more.items() if k == "attention"}, batch


def measured(*arguments, context=None, **more):
    accumulator = metrics.FineGrainedMetrics(context or Context(labels=NAMES))
    accumulator.update(*stream(*arguments, **more))
    return accumulator.result()


def test_goldens():
    """As RPF's code counts, through the accumulator: 6 queries of attribute 2 have no relevant candidate."""
    embedding, attribute, value, role = [], [], [], []
    for i in range(4):
        for kind, number in (("query", metrics.QUERY), ("candidate", metrics.CANDIDATE)):
            rows = GOLDEN[f"{kind}_{i}"]
            embedding.append(rows)
            attribute += [i] * len(rows)
            value += GOLDEN[f"{kind}_value_{i}"].tolist()
            role += [number] * len(rows)
    found = measured(np.concatenate(embedding), attribute, value, role)
    names = [*NAMES["attribute"], "3"]  # the dataset names three of the four
    per_attribute = [found[f"zoo/map/{name}"] for name in names]
    np.testing.assert_allclose(per_attribute, 100 * GOLDEN["per_attribute_map"], rtol=1e-9)
    assert found["zoo/map"] == pytest.approx(100 * float(GOLDEN["total_map"]), rel=1e-9)
    count = GOLDEN["query_count"]
    assert found["standard/map/cuff"] == pytest.approx(found["zoo/map/cuff"] / 100 * 22 / 16, rel=1e-9)
    whole = found["zoo/map"] / 100 * count.sum() / (count.sum() - 6)
    assert found["standard/map"] == pytest.approx(whole, rel=1e-9)


# collar: two queries, three candidates; hem: one query without a relevant candidate; cuff: no candidate
EMBEDDING = [[1, 0], [0, 1], [1, 0.1], [0.9, 0.2], [0.1, 1], [1, 0], [1, 0], [1, 1]]
ATTRIBUTE = [0, 0, 0, 0, 0, 1, 1, 2]
VALUE = [0, 0, 1, 0, 0, 0, 1, 0]
ROLE = [1, 1, 2, 2, 2, 1, 2, 1]


def test_written_out():
    """First query: value-0 candidates at ranks 2 and 3; second: at 1 and 2."""
    found = measured(EMBEDDING, ATTRIBUTE, VALUE, ROLE)
    first, second = (1 / 2 + 2 / 3) / 2, 1.0
    assert found["zoo/map/collar"] == pytest.approx(100 * (first + second) / 2)
    assert found["zoo/map/hem"] == 0 and "standard/map/hem" not in found and "zoo/map/cuff" not in found
    assert found["zoo/map"] == pytest.approx(100 * (first + second) / 3)
    assert found["standard/map"] == found["standard/map_macro"] == pytest.approx((first + second) / 2)
    assert found["standard/recall@1"] == 0.5 and found["standard/recall@5"] == 1


def test_overall_of_the_published_rows():
    """The published overall is the mean of the published attributes weighted by the queries of test."""
    fashionai = (
        [66.75, 67.86, 59.65, 73.23, 75.72, 73.18, 74.40, 75.01],
        [422, 623, 535, 422, 341, 289, 703, 265],
    )
    deepfashion = ([15.62, 8.30, 15.02, 7.38, 4.77], [1008, 1483, 1097, 1022, 915])
    for (values, queries), printed in ((fashionai, 70.11), (deepfashion, 10.22)):
        per_query = {i: np.full(n, v) for i, (v, n) in enumerate(zip(values, queries, strict=True))}
        assert metrics.weighted_mean(per_query) == pytest.approx(printed, abs=0.006)


def test_a_random_order():
    assert metrics.random_precision(0, 5) == 0 and metrics.random_precision(5, 5) == 1
    orders = itertools.permutations(range(6))
    every = [metrics.average_precisions([np.flatnonzero(np.isin(o, (0, 1, 2))) + 1])[0] for o in orders]
    assert metrics.random_precision(3, 6) == pytest.approx(np.mean(every))


def test_a_candidate_with_several_values_is_relevant_for_each():
    values = np.empty(3, object)
    values[:] = [np.asarray([0]), np.asarray([1]), np.asarray([2, 0])]
    context = Context(labels=NAMES, column=lambda name: values)
    found = measured([[1, 0], [0.8, 0.6], [1, 0.1]], [0] * 3, [0, 0, 2], [1, 2, 2], context=context)
    assert found["standard/map"] == 0.5 and found["standard/map_all_values"] == 1


def test_attention_inside_a_box():
    attention = np.zeros((3, 2, 4))
    attention[0, 0, 0], attention[0, 1, 3] = 3, 1
    attention[1] = 1
    boxes = np.asarray([[0, 0, 0.25, 0.5], [0.125, 0, 0.5, 1], [0, 0, 1, 1]])
    share = metrics.attention_inside(attention, boxes)
    np.testing.assert_allclose(share[:2], [0.75, 1.5 / 4])
    assert np.isnan(share[2])
    found = measured(EMBEDDING[:3], [0] * 3, [0, 0, 0], [1, 1, 2], attention=attention, part_box=boxes)
    assert found[metrics.PART] == found[f"{metrics.PART}/collar"] == pytest.approx((0.75 + 0.375) / 2)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"role": [1, 1, 1]}, "no attribute of the split has both"),
        ({"value": [0, 0, 1]}, "no query of the split has a candidate of its value"),
        ({"embedding": [[1, np.nan], [1, 0], [0, 1]]}, "embedding of example 0 is not finite"),
    ],
)
def test_what_cannot_be_measured(change, said):
    inputs = {"embedding": EMBEDDING[:3], "attribute": [0] * 3, "value": [0] * 3, "role": [1, 1, 2]} | change
    with pytest.raises(UserError, match=said):
        measured(*inputs.values())
    prediction, batch = stream(*inputs.values())
    del batch["role"]
    with pytest.raises(UserError, match="no role"):
        metrics.FineGrainedMetrics(Context()).update(prediction, batch)


def test_every_figure_has_a_definition():
    found = measured(EMBEDDING, ATTRIBUTE, VALUE, ROLE)
    known = {name.replace("@k", f"@{k}") for name in metrics.DEFINITIONS for k in metrics.KS}
    assert {name if name.count("/") == 1 else f"{name.rpartition('/')[0]}/NAME" for name in found} <= known
