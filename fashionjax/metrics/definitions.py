"""One line per metric name, for reports."""

import re

from fashionjax.metrics import classification, compatibility, landmarks, retrieval

TABLES = (
    classification.DEFINITIONS,
    landmarks.DEFINITIONS,
    retrieval.DEFINITIONS,
    compatibility.DEFINITIONS,
)


def definition(name: str) -> str | None:
    """The definition of a metric such as `zoo/recall@5` (listed as `zoo/recall@k`), None for an unknown
    name.
    """
    general = re.sub(r"@\d+$", "@k", name)
    for table in TABLES:
        if general in table:
            return table[general]
    return None
