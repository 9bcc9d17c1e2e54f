"""SECURITY.md names a test for every promise; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
PROMISES = PAGE.split("## Promises")[1].split("## What happened")[0]
ROWS = [row for row in PROMISES.splitlines() if row.startswith("| ")][2:]
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_promise_has_a_test() -> None:
    assert len(ROWS) >= 30
    assert [row for row in ROWS if not re.search(r"`[\w/]+\.py::test_\w+` *[|,]", row)] == []


def test_every_test_named_is_there() -> None:
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not re.search(
            rf"^(async )?def {name}\(",
            (ROOT / "tests" / file).read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    ]
    assert missing == []
    assert len(NAMED) >= len(ROWS)
