"""What each decision is worth: the receipt's parts fit together; no speed is asserted."""

from __future__ import annotations

import json

import pytest

from model.kernel_choice import OF_GUESSES, REGIONS
from model.measure import levers
from server.bench import levers_command, main
from server.bench.levers_command import TOGETHER, WITH, WITHOUT


def test_every_lever_is_counted_and_timed_with_it_and_without_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levers, "CHUNK", 64)
    words = ["levers", "--geometry", "tiny", "--context", "300", "--rounds", "2", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    launches = found["launches"]
    assert all(count[WITH] < count[WITHOUT] for count in launches.values())
    guessing = [launches.pop(f"kernel {name}, with a guess") for name in OF_GUESSES]
    assert len({count[WITH] for count in guessing}) == 1
    assert {f"kernel {name}" for name in set(REGIONS) - set(OF_GUESSES)} < launches.keys()
    assert len({count[WITH] for count in launches.values()}) == 1
    assert guessing[0][WITH] > launches[TOGETHER][WITH]
    assert max(launches.values(), key=lambda count: count[WITHOUT]) == launches[TOGETHER]
    timed = [[sample["name"] for sample in found["samples"][side]] for side in (WITH, WITHOUT)]
    assert timed[0] == timed[1]
    assert all(timed[0].count(name) == 2 for name in timed[0])
    assert all(sample["value"] > 0 for side in found["samples"].values() for sample in side)
    assert {"machine", "versions", "conditions", "command"} <= found.keys()


def test_a_page_has_both_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levers_command, "levers", lambda *_: [])
    assert main(["levers", "--geometry", "tiny", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line.split() for line in lines if line.startswith("kernel delta_step "))
    assert int(row[-1].replace(",", "")) == int(row[-2].replace(",", "")) - int(row[-3])


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--context", "0"], ["--geometry", "x"]])
def test_bad_words_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["levers", *words])
    assert stopped.value.code == 2


def test_a_folder_without_a_checkpoint_is_an_error(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["levers", "--geometry", "tiny", "--model", str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err
