"""docs/reliability.md names a test for every fault; each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def rows() -> list[str]:
    """The faults' lines in the tables; behind them is what longer runs gave."""
    faults, _, _ = PAGE.partition("## Longer runs")
    return [line for line in faults.splitlines() if line.startswith("| ") and "| --- |" not in line]


def test_every_fault_has_a_test() -> None:
    faults = [row for row in rows() if not row.startswith("| fault |")]
    assert len(faults) >= 40
    assert [row for row in faults if "::test_" not in row] == []


def test_every_test_named_is_there() -> None:
    missing = [
        f"{file}::{name}"
        for file, name in NAMED
        if not re.search(
            rf"^def {name}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.MULTILINE
        )
    ]
    assert missing == []
