"""What is written down comes back, in order; what is damaged is left out and told."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.turn_memory import PrefixDigest, Turn, TurnMemory
from server.engine import turn_journal
from server.engine.turn_journal import JOURNAL, TurnJournal

LINES = ['["one", 1]', '["zwei ü\\u2028\\n", 2]', "three"]


def read(folder: Path) -> list[str]:
    lines: list[str] = []
    TurnJournal(folder / JOURNAL).read(lines.append)
    return lines


def write(folder: Path, lines: list[str]) -> None:
    journal = TurnJournal(folder / JOURNAL)
    for line in lines:
        journal.add(line)
    assert journal.waiting
    journal.write()
    assert not journal.waiting


def test_lines_of_several_processes_come_back_in_order(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    write(tmp_path, LINES)
    write(tmp_path, ["four"])
    assert read(tmp_path) == [*LINES, "four"]
    assert stat.S_IMODE((tmp_path / JOURNAL).stat().st_mode) == 0o600


@given(cut=st.integers(0, 200), flip=st.integers(0, 200))
def test_a_damaged_file_gives_whole_lines_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    write(folder, LINES)
    data = bytearray((folder / JOURNAL).read_bytes())
    data = data[: max(1, len(data) - cut)]
    data[flip % len(data)] ^= 1
    (folder / JOURNAL).write_bytes(bytes(data))
    found = read(folder)
    assert set(found) <= set(LINES)
    assert read(folder) == found, "the file was mended"


def test_lines_that_the_reader_refuses_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, LINES)
    taken: list[str] = []

    def take(line: str) -> None:
        if line == "three":
            raise ValueError
        taken.append(line)

    TurnJournal(tmp_path / JOURNAL).read(take)
    assert taken == LINES[:2]


def test_a_large_file_is_cut_to_its_newer_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_journal, "MOST_BYTES", 1000)
    lines = [f"line {i} {'x' * 20}" for i in range(60)]
    write(tmp_path, lines)
    assert read(tmp_path) == lines
    kept = read(tmp_path)
    assert kept == lines[-len(kept) :]
    assert 5 <= len(kept) < 20
    assert (tmp_path / JOURNAL).stat().st_size <= 500


def test_a_disk_in_trouble_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = TurnJournal(tmp_path / "not there" / JOURNAL)
    for line in LINES:
        journal.add(line)
        journal.write()
    assert len(caplog.records) == 1


@given(
    ids=st.lists(st.integers(0, 2**31 - 1), max_size=20),
    content=st.text(),
    reasoning=st.text(),
    tenant=st.sampled_from(["", "a"]),
)
def test_a_turn_survives_its_line(
    ids: list[int], content: str, reasoning: str, tenant: str
) -> None:
    before, after = TurnMemory(), TurnMemory()
    turn = before.remember([1, 2, 3], ids, content, reasoning, None, tenant)
    after.keep(Turn.from_json(turn.to_json()))
    prefix = PrefixDigest([1, 2, 3]).after(())
    assert after.recall(prefix, content, reasoning, None, tenant) == ids
    assert after.recall(prefix, content, reasoning, None, "another") is None


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{}", '["zz", [], "", "", ""]', '["00", [-1], "", "", ""]', '["00",[],1,2,3]'],
)
def test_what_is_no_turn_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Turn.from_json(line)
