"""Runs a conversion: units of work in a fixed order, made by several threads, written by one.

A unit is a range of the first axis of one tensor, some 16 MB of the source, so memory holds a few
of those whatever the size of the checkpoint. What is durable is noted in the journal; a conversion
that was killed goes on there.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.convert.beside import write_beside
from model.convert.files import PlacedFile, sha256, write_json
from model.convert.journal import RECORD, Journal
from model.convert.plan import ConversionPlan, Output
from model.convert.prescale import Importance, Prescaling, Scaling
from model.convert.quantize import quantize, stored_bits, without_nan
from model.errors import CheckpointError

UNIT_VALUES = 1 << 23
SYNC_BYTES = 256 << 20  # of output between two notes in the journal
MOST_WORKERS = 8
_SPARE = 64 << 20  # left on the disk beside the weights

Progress = Callable[[int, int], None]
Values = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows (or experts) start to stop of the plan's output number `output`."""

    output: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Influence:
    """What changes values or weighs errors; empty where nothing does. report: what AWQ did."""

    prescaling: Prescaling = field(default_factory=dict)
    importance: Importance | None = None
    report: Any = None


def units_of(plan: ConversionPlan) -> Iterator[Unit]:
    """All units, in the order in which they are written."""
    for index, output in enumerate(plan.outputs):
        rows = output.tensor.shape[0]
        step = max(1, UNIT_VALUES // max(1, output.tensor.row_values))
        for start in range(0, rows, step):
            yield Unit(index, start, min(start + step, rows))


def convert(
    plan: ConversionPlan,
    target: Path,
    journal: Journal,
    influence: Influence,
    record: Mapping[str, Any],
    *,
    progress: Progress | None = None,
    workers: int | None = None,
    sync_bytes: int = SYNC_BYTES,
) -> dict[str, Any]:
    """Writes the checkpoint into `target`, from where the journal is; returns what is written as
    conversion.json: `record`, how many infinities were replaced, by tensor, and the SHA-256 of
    every weight file.

    progress(bytes of the source done, of all). Raises CheckpointError for a NaN, a disk that is
    too small or a source that changed; the journal stays, and the same conversion can go on.
    """
    check_room(plan, target)
    count = workers or min(MOST_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(count, "convert") as pool:
        run = _Run(plan, target, journal, influence, progress, sync_bytes)
        digests = run.all(pool, ahead=count + 1)
    write_beside(plan, target)
    whole = {**record, "infinities": journal.notes, "sha256": digests}
    write_json(target / RECORD, whole)
    journal.remove()
    return whole


def check_room(plan: ConversionPlan, target: Path) -> None:
    """Raises CheckpointError where the weights do not fit on the disk of `target`."""
    there = sum(file.stat().st_blocks * 512 for file in target.glob("*.safetensors*"))
    folder = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    wanted, free = plan.nbytes - there + _SPARE, shutil.disk_usage(folder).free
    if wanted > free:
        raise CheckpointError(
            f"{target}: expected {wanted / 1e9:.1f} GB free on the disk, found {free / 1e9:.1f} GB"
        )


def make(output: Output, unit: Unit, influence: Influence) -> tuple[dict[str, Values], int]:
    """(suffix -> array as stored, infinities replaced) of one unit. Raises CheckpointError."""
    tensor = output.tensor
    scaling = influence.prescaling.get(tensor.name)
    as_it_is = tensor.part != "text" or (tensor.kind == "float32" and scaling is None)
    if as_it_is or (scaling is None and tensor.change != "add one" and tensor.dtype == "BF16"):
        values: Values = tensor.bits(unit.start, unit.stop)
    else:
        values = tensor.values(unit.start, unit.stop)
        if scaling is not None:
            values = scaling.apply(values, unit.start)
    try:
        if as_it_is:
            return {"weight": without_nan(values)}, 0
        if output.spec is None:
            return {"weight": stored_bits(values)}, 0
        return quantize(values, output.spec, _weights(output, unit, influence, scaling))
    except FloatingPointError:
        raise CheckpointError(
            f"{tensor.stored.file}: {tensor.stored.name}: expected numbers, found a NaN in "
            f"{_place(values, unit)}"
        ) from None


def _weights(
    output: Output, unit: Unit, influence: Influence, scaling: Scaling | None
) -> npt.NDArray[np.float32] | None:
    """What the inputs of the unit's rows weigh: inputs that are divided weigh less."""
    found = (influence.importance or {}).get(output.tensor.module)
    if found is None:
        return None
    if scaling is not None and scaling.inputs is not None:
        found = (found / np.square(scaling.inputs)).astype(np.float32)
    return found if found.ndim == 1 else found[unit.start : unit.stop]


def _place(values: Values, unit: Unit) -> str:
    floats = values.dtype != np.uint16
    bad = np.isnan(values) if floats else (values & 0x7FFF) > 0x7F80
    first, *rest = (int(axis[0]) for axis in np.nonzero(bad))
    return f"element {[first + unit.start, *rest]} of the network's tensor"


class _Run:
    """The single writer: takes what the threads made in order."""

    def __init__(
        self,
        plan: ConversionPlan,
        target: Path,
        journal: Journal,
        influence: Influence,
        progress: Progress | None,
        sync_bytes: int,
    ) -> None:
        self._plan = plan
        self._target = target
        self._journal = journal
        self._influence = influence
        self._progress = progress
        self._sync_bytes = sync_bytes
        self._units = list(units_of(plan))
        self._total = sum(self._source_bytes(unit) for unit in self._units)

    def all(self, pool: ThreadPoolExecutor, ahead: int) -> dict[str, str]:
        """Writes every file from the first unit that is not durable; returns the digest of each."""
        begin = self._first_needed()
        by_file: dict[int, list[int]] = {}
        for index in range(begin, len(self._units)):
            by_file.setdefault(self._file(index), []).append(index)
        self._done = sum(self._source_bytes(unit) for unit in self._units[:begin])
        paths = [self._target / file.name for file in self._plan.files]
        digests = {i: pool.submit(sha256, path) for i, path in enumerate(paths) if i not in by_file}
        made = self._made(pool, range(begin, len(self._units)), ahead)
        with closing(made):
            for number, indices in by_file.items():
                self._write_file(number, indices, made)
                digests[number] = pool.submit(sha256, paths[number])  # still in the page cache
        return {paths[number].name: digests[number].result() for number in range(len(paths))}

    def _write_file(self, number: int, indices: list[int], made: Iterator[Any]) -> None:
        planned = self._plan.files[number]
        file = PlacedFile(self._target / planned.name, planned.header, planned.size)
        notes: dict[str, int] = {}
        waiting = 0
        try:
            for index in indices:
                unit = self._units[index]
                output = self._plan.outputs[unit.output]
                parts, infinities = next(made)
                waiting += self._write(file, output, unit, parts)
                if infinities:
                    name = output.tensor.stored.name
                    notes[name] = notes.get(name, 0) + infinities
                self._done += self._source_bytes(unit)
                if waiting >= self._sync_bytes and index != indices[-1]:
                    file.sync()
                    self._note(index + 1, notes)
                    waiting = 0
                if self._progress is not None:
                    self._progress(self._done, self._total)
        except BaseException:
            file.close()
            raise
        file.finish()
        self._note(indices[-1] + 1, notes)

    def _write(self, file: PlacedFile, output: Output, unit: Unit, parts: dict[str, Values]) -> int:
        written = 0
        for suffix, place in output.places.items():
            row = place.nbytes // place.shape[0]
            data = np.ascontiguousarray(parts[suffix]).view(np.uint8).reshape(-1)
            if data.nbytes != row * (unit.stop - unit.start):
                raise ValueError(f"{place.name}: {data.nbytes} bytes for {unit}")
            file.write(place.start + row * unit.start, data.data)
            written += data.nbytes
        return written

    def _note(self, done: int, notes: dict[str, int]) -> None:
        for name, count in notes.items():
            self._journal.notes[name] = self._journal.notes.get(name, 0) + count
        notes.clear()
        self._journal.done = done
        self._journal.save()

    def _first_needed(self) -> int:
        """The journal's place; the beginning, where the disk does not hold what it says."""
        done = self._journal.done
        for number, planned in enumerate(self._plan.files):
            mine = [i for i in range(len(self._units)) if self._file(i) == number]
            path = self._target / planned.name
            whole = path.is_file() and path.stat().st_size == planned.size
            begun = PlacedFile.begun(path, planned.size)
            if (done > mine[-1] and not whole) or (mine[0] < done <= mine[-1] and not begun):
                self._journal.done, self._journal.notes = 0, {}
                return 0
        return done

    def _made(self, pool: ThreadPoolExecutor, indices: range, ahead: int) -> Generator[Any]:
        """What the units' threads make, in order, with at most `ahead` under way."""
        waiting: deque[Future[Any]] = deque()
        try:
            for index in indices:
                unit = self._units[index]
                output = self._plan.outputs[unit.output]
                waiting.append(pool.submit(make, output, unit, self._influence))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _file(self, index: int) -> int:
        return self._plan.outputs[self._units[index].output].places["weight"].file

    def _source_bytes(self, unit: Unit) -> int:
        tensor = self._plan.outputs[unit.output].tensor
        size = {"BF16": 2, "F16": 2, "F32": 4}[tensor.dtype]
        return (unit.stop - unit.start) * tensor.row_values * size
