"""How far a conversion is, on the disk: what lets it go on where it was killed.

Lies in a folder of its own inside the target, which is removed at the end. A line of units of work,
always in the same order; the journal says how many of them are durable.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.convert.files import write_json, write_whole
from model.convert.prescale import Prescaling, Scaling
from model.errors import CheckpointError

FOLDER = ".conversion"
RECORD = "conversion.json"  # what stays
_JOURNAL = "journal.json"
_PRESCALING = "prescaling.npz"
_LOCK = "lock"


def digest(value: Any) -> str:
    """A short name of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """The journal of one target folder, held by one process at a time.

    done: units that are durable; notes: what was found in them, by tensor.
    """

    def __init__(self, target: Path, job: Mapping[str, Any]) -> None:
        """Opens or begins it. Raises CheckpointError where the target is something else's."""
        self.done = 0
        self.notes: dict[str, int] = {}
        self._target = target
        self._folder = target / FOLDER
        self._job = dict(job)
        _check_free(target)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = _locked(self._folder / _LOCK, target)
        path = self._folder / _JOURNAL
        if path.exists():
            self._take_up(json.loads(path.read_text(encoding="utf-8")))
        else:
            self.save()

    def save(self) -> None:
        """Writes how far it is; what it counts as done has to be durable already."""
        content = {"job": self._job, "done": self.done, "notes": self.notes}
        write_json(self._folder / _JOURNAL, content)

    def close(self) -> None:
        """Lets go of the target; may be called again."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = None

    def remove(self) -> None:
        """The conversion is whole: `finished_job` says so from here on."""
        (self._folder / _JOURNAL).unlink()
        self.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take_up(self, found: Mapping[str, Any]) -> None:
        if found["job"] != self._job:
            self.close()
            ours, theirs = self._job, found["job"]
            differing = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
            raise CheckpointError(
                f"{self._target}: holds an unfinished conversion that differs in "
                f"{', '.join(differing)}; give the same, or remove the folder"
            )
        self.done, self.notes = found["done"], dict(found["notes"])


def finished_job(target: Path) -> str | None:
    """The digest of the job that made the whole checkpoint in `target`; None where none did."""
    record = target / RECORD
    if (target / FOLDER / _JOURNAL).exists() or not record.is_file():
        return None
    shutil.rmtree(target / FOLDER, ignore_errors=True)  # of one that was killed at its very end
    try:
        return json.loads(record.read_text(encoding="utf-8")).get("job")
    except (OSError, ValueError, AttributeError):
        return None


def save_prescaling(target: Path, scalings: Prescaling, report: Any) -> None:
    """Keeps what AWQ decided, so that a conversion that is taken up does not decide anew."""
    arrays: dict[str, Any] = {"report": np.array(json.dumps(report))}
    for name, scaling in scalings.items():
        for side, factors in (("inputs", scaling.inputs), ("outputs", scaling.outputs)):
            if factors is not None:
                arrays[f"{side}:{name}"] = factors
    folder = target / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"making-{_PRESCALING}"
    np.savez(beside, allow_pickle=False, **arrays)
    write_whole(folder / _PRESCALING, beside.read_bytes())
    beside.unlink()


def saved_prescaling(target: Path) -> tuple[Prescaling, Any] | None:
    """(scalings, report) that were kept; None where nothing was."""
    path = target / FOLDER / _PRESCALING
    if not path.is_file():
        return None
    sides: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as found:
        report = json.loads(str(found["report"]))
        for key in found.files:
            side, _, name = key.partition(":")
            if name:
                sides.setdefault(name, {})[side] = found[key]
    return {name: Scaling(**factors) for name, factors in sides.items()}, report


def _check_free(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target}: expected a folder to be made, found a file")
    if target.exists() and any(target.iterdir()) and not (target / FOLDER).is_dir():
        raise CheckpointError(
            f"{target}: expected no such folder, or one that this conversion began, found other "
            "files in it"
        )


def _locked(path: Path, target: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise CheckpointError(f"{target}: another process is converting into it") from None
    return handle
