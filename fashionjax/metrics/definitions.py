"""One line per metric name, for reports."""

import re
from collections.abc import Container

from fashionjax.metrics import classification, compatibility, detection, landmarks, retrieval

TABLES = (
    classification.DEFINITIONS,
    landmarks.DEFINITIONS,
    retrieval.DEFINITIONS,
    compatibility.DEFINITIONS,
    detection.DEFINITIONS,
)

OF_TASK = {
    "attributes": (classification.DEFINITIONS, landmarks.DEFINITIONS),
    "landmarks": (landmarks.DEFINITIONS,),
    "retrieval": (retrieval.DEFINITIONS,),
    "compatibility": (compatibility.DEFINITIONS, classification.DEFINITIONS),
    "detection": (detection.DEFINITIONS,),
}
# what a metric's name speaks of → the prediction that it needs
NEEDED = {
    "attribute": "attribute_logits",
    "category": "category_logits",
    "landmark": "landmark",
    "visibility": "visibility",
}


def general(name: str) -> str:
    """`zoo/recall@5` → `zoo/recall@k`, as metrics are listed."""
    return re.sub(r"@\d+$", "@k", name)


def definition(name: str) -> str | None:
    """The definition of a metric such as `zoo/recall@5` (listed as `zoo/recall@k`), None for an unknown
    name.
    """
    for table in TABLES:
        if general(name) in table:
            return table[general(name)]
    return None


def names(task: str, predicted: Container[str]) -> list[str]:
    """The metrics that a task measures of models with these predictions, in their general form."""
    listed = [name for table in OF_TASK.get(task, TABLES) for name in table]
    return [name for name in listed if all(key in predicted for word, key in NEEDED.items() if word in name)]
