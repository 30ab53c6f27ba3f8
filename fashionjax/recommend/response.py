"""Answers as JSON files in the form of fashion-recommendation's service (src/image2seg.py)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fashionjax import files
from fashionjax.errors import UserError

SEOUL = datetime.timezone(datetime.timedelta(hours=9))
SUCCESS = ("200", "SUCCESS")
IMAGE_FAILED = "FAIL_002"  # a photo that cannot be read, and whatever has no code of its own


def write(
    folder: Path,
    path: str,
    *,
    lines: Sequence[Mapping[str, Any]] = (),
    root: Path | None = None,
    error: UserError | None = None,
) -> Path:
    """FOLDER/STEM.json: {"resultCode", "resultMessage", "body": [{"workId", "file_path", "score"}],
    "responseDate"}; `workId` is the pair. Upstream mixes FAIL-002 and FAIL_003; here all have underscores."""
    code, message = SUCCESS
    if error is not None:
        code, message = getattr(error, "code", IMAGE_FAILED), str(error)
    content = {
        "resultCode": code,
        "resultMessage": message,
        "body": [
            {"workId": line["pair_id"], "file_path": str(Path(root) / line["id"]), "score": line["score"]}
            for line in lines
        ],
        "responseDate": datetime.datetime.now(SEOUL).strftime("%Y-%m-%d %H:%M:%S"),
    }
    target = folder / f"{Path(path).stem}.json"
    files.write_text(target, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return target
