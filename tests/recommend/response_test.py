"""Answers in the form of fashion-recommendation's service."""

import json
import re
from pathlib import Path

from fashionjax.errors import UserError
from fashionjax.recommend import response, rules

LINE = {"rank": 1, "id": "a/coat_1.png", "pair_id": "12", "category": "coat", "score": 0.5}


def read(path: Path) -> dict:
    content = json.loads(path.read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", content.pop("responseDate"))
    return content


def test_an_answer(tmp_path):
    written = response.write(tmp_path, "photos/look.jpg", lines=[LINE], root=Path("db"))
    assert written == tmp_path / "look.json"
    assert read(written) == {
        "resultCode": "200",
        "resultMessage": "SUCCESS",
        "body": [{"workId": "12", "file_path": "db/a/coat_1.png", "score": 0.5}],
    }


def test_a_failure_has_the_code_of_its_cause(tmp_path):
    for error, code in (
        (rules.NoAnswer("FAIL_006", "no such coat"), "FAIL_006"),
        (UserError("look.jpg: not an image"), "FAIL_002"),
    ):
        content = read(response.write(tmp_path, "look.jpg", error=error))
        assert content == {"resultCode": code, "resultMessage": str(error), "body": []}
