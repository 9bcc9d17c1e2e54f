"""Counting verdicts, and the report that is written of them."""

import json
from pathlib import Path

from model.demo.cases import Case, Mode
from model.demo.evaluate import table, tally, write_report
from model.demo.judge import Verdict


def judged(skill: str, mode: Mode, dialogue: int, right: bool, decoded: bool = False):
    return Case([1], [2], 0, "", skill, mode, dialogue), Verdict(right, decoded, "")


SOME = [
    judged("sum", "thinking", 0, True),
    judged("sum", "thinking", 0, False, decoded=True),
    judged("sum", "no thinking", 0, True),
    judged("repeat", "no thinking", 1, True),
    judged("repeat", "cut thinking", 1, True, decoded=True),
]


def test_answers_are_counted_by_skill_and_mode_and_dialogues_as_wholes() -> None:
    result = tally(SOME)
    assert result["answers"]["all"]["all"] == [4, 5]
    assert result["answers"]["sum"] == {"all": [2, 3], "thinking": [1, 2], "no thinking": [1, 1]}
    assert result["answers"]["repeat"]["cut thinking"] == [1, 1]
    assert result["dialogues"] == [3, 4]
    assert result["decoded"] == [1, 2]


def test_the_table_names_what_misses_its_target() -> None:
    text = table({"demo": tally(SOME)})
    assert "missed: sum 66.7%" in text
    assert "95% overall (missed)" in text
    assert "| repeat | 2/2 (100.0%) | - | 1/1 (100.0%) | 1/1 (100.0%) |" in text
    assert "missed" not in table({"demo": tally(SOME[:1])})


def test_the_report_says_how_it_was_made(tmp_path: Path) -> None:
    results = {"one": tally(SOME), "two": tally(SOME[:1])}
    write_report(results, 2, tmp_path)
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert facts["seeds"] == [2_000_000, 2_000_001]
    assert facts["modes"] == ["thinking", "no thinking", "cut thinking"]
    assert facts["results"]["two"]["answers"]["all"]["all"] == [1, 1]
    text = (tmp_path / "evaluation.md").read_text()
    assert "greedy" in text
    assert "## one" in text
    assert "## two" in text
