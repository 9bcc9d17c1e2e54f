"""Real schemas: each is refused up front, or its mask accepts every valid instance and refuses
every invalid one. A sample of JSONSchemaBench; `mxserve bench grammars FOLDER` tries more."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.loading import DEMO_FOLDER
from server.bench.grammars import Checker, Tally, cases

SAMPLE = Path(__file__).parent / "jsonschemabench"


@pytest.fixture(scope="module")
def tally() -> Tally:
    checker = Checker((DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    for name, case in cases(SAMPLE):
        checker.check(name, case)
    return checker.tally


def test_no_instance_is_taken_for_what_it_is_not(tally: Tally) -> None:
    assert tally.wrong == []
    assert tally.schemas >= 25
    assert tally.valid > 25
    assert tally.invalid > 50


def test_few_schemas_are_refused_and_each_with_a_reason(tally: Tally) -> None:
    assert len(tally.refused) < tally.schemas / 4
    for reason in tally.refused.values():
        assert "not supported" in reason
        assert " at /" in reason
