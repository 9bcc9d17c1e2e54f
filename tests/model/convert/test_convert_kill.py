"""Kills at any moment, and what a conversion refuses to begin or to go on with."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import model.convert.convert as running
from model.convert.convert import units_of
from model.convert.journal import FOLDER
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.source import open_source
from model.errors import CheckpointError
from tests.model.convert.jobs import job_of

ROOT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


KILLED = """
import os, signal, sys
from pathlib import Path
import model.convert.convert as running
from tests.model.convert.test_convert_kill import job_of
running.UNIT_VALUES, running.SYNC_BYTES = 20_000, 60_000
left = int(sys.argv[3])
def progress(done, total):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
running.convert.__kwdefaults__["sync_bytes"] = 60_000
job_of(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=700_000).run(progress, workers=2)
"""


def run_killed(source: Path, target: Path, after: int) -> int:
    command = [sys.executable, "-c", KILLED, str(source), str(target), str(after)]
    return subprocess.run(command, cwd=ROOT, timeout=120).returncode


def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "UNIT_VALUES", 20_000)
    whole = tmp_path / "whole"
    job_of(original, whole, shard_bytes=700_000).run(None, workers=1)
    target = tmp_path / "killed"
    random, kills = np.random.default_rng(7), 0
    while run_killed(original, target, int(random.integers(1, 120))) == -signal.SIGKILL:
        kills += 1
        assert not (target / "config.json").exists()
        journal = json.loads((target / FOLDER / "journal.json").read_text())
        _spoil_what_is_not_durable(original, target, journal["done"])
    assert kills >= 3
    assert contents(target) == contents(whole)


def _spoil_what_is_not_durable(source: Path, target: Path, done: int) -> None:
    """What a power cut may do to bytes that were not synced."""
    plan = plan_conversion(open_source(source), RECIPES["ud-mxfp8"], shard_bytes=700_000)
    for unit in list(units_of(plan))[done:]:
        for place in plan.outputs[unit.output].places.values():
            path = target / f"{plan.files[place.file].name}.partial"
            if path.exists():
                row = place.nbytes // place.shape[0]
                with path.open("r+b") as file:
                    file.seek(place.start + row * unit.start)
                    file.write(b"\x55" * (row * (unit.stop - unit.start)))


@pytest.mark.parametrize(
    "step",
    [
        "model.convert.beside.converted_config",
        "model.convert.convert.write_json",  # conversion.json
        "model.convert.journal.Journal.remove",
        "model.convert.journal.shutil.rmtree",
    ],
)
def test_killed_while_the_last_files_are_written(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    job_of(original, tmp_path / "whole").run(None)
    target = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(step, _raising(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            job_of(original, target).run(None)
    again = job_of(original, target)
    if not again.is_finished():
        again.run(None)
    assert contents(target) == contents(tmp_path / "whole")
    assert job_of(original, target).is_finished()
    assert not job_of(original, target, "mxfp8").is_finished()


def _raising(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def test_another_conversion_is_not_gone_on_with(original: Path, tmp_path: Path) -> None:
    assert run_killed(original, tmp_path / "x", 30) == -signal.SIGKILL
    with pytest.raises(CheckpointError, match=r"differs in decisions.*recipe"):
        job_of(original, tmp_path / "x", "mxfp8", shard_bytes=700_000).run(None)


def test_files_that_went_missing_are_written_anew(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "UNIT_VALUES", 20_000)
    job_of(original, tmp_path / "whole", shard_bytes=700_000).run(None)
    assert run_killed(original, tmp_path / "x", 150) == -signal.SIGKILL
    next((tmp_path / "x").glob("*.safetensors")).unlink()
    job_of(original, tmp_path / "x", shard_bytes=700_000)
    assert run_killed(original, tmp_path / "x", 10_000) == 0
    assert contents(tmp_path / "x") == contents(tmp_path / "whole")


def test_a_folder_with_anything_in_it_is_refused(original: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="found other files"):
        job_of(original, tmp_path).run(None)
    with pytest.raises(CheckpointError, match="apart from the source"):
        job_of(original, original / "inside").run(None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_two_at_a_time_are_refused(original: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        with pytest.raises(CheckpointError, match="another process"):
            job_of(original, tmp_path / "x").run(None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job_of(original, tmp_path / "x").run(progress)
    job_of(original, tmp_path / "x").run(None)


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(CheckpointError, match=r"expected 0\.1 GB free on the disk, found 0\.0 GB"):
        job_of(original, tmp_path / "x").run(None)
    assert not (tmp_path / "x").exists()
