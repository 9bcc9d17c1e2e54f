"""A finished soak: what grew, what was left, and why it did not pass.

Knows readings and what a leak looks like in them; nothing of clients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from server.bench.process_figures import ProcessFigures
from server.bench.soak_tally import Tally

MIB = 1 << 20
_UNKNOWN = ProcessFigures()
# What may grow between the second and the last quarter: noise of an allocator, and of counts.
GROWTH, GROWTH_BYTES, GROWTH_COUNT = 1.1, 16 << 20, 8
# At the end, idle, against the beginning: pools of threads and their files stay.
LEFT_FILES, LEFT_THREADS = 16, 40
SLOPE_MIB, SLOPE_LEAST_S = 1.0, 600.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the server: seconds since the start, bytes, counts (None: it does not say);
    process: which one, from 0."""

    at_s: float
    rss: int | None
    active: int | None
    files: int | None = None
    threads: int | None = None
    process: int = 0


Pick = Callable[[Reading], int | None]
PICKS: Mapping[str, Pick] = {
    "resident memory": lambda reading: reading.rss,
    "active memory": lambda reading: reading.active,
    "open files": lambda reading: reading.files,
    "threads": lambda reading: reading.threads,
}


@dataclass(frozen=True, slots=True)
class Soak:
    """A finished soak. idle: what the server counts at the end, after all have gone; readings: of
    the process over time; kills: how often it was killed; before, after: the process idle."""

    streams: int
    seconds: float
    tally: Tally
    readings: Sequence[Reading]
    idle: Mapping[str, Any]
    kills: int = 0
    before: ProcessFigures = _UNKNOWN
    after: ProcessFigures = _UNKNOWN

    @property
    def failures(self) -> list[str]:
        """Why this soak did not pass; empty when it did."""
        tally = self.tally
        found = [
            f"{count} answers {what}"
            for count, what in (
                (tally.lost, "lost text"),
                (tally.doubled, "have text twice"),
                (tally.wrong_length, "have another length than their reference"),
            )
            if count
        ]
        if tally.errors:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in tally.errors.items())
            found.append(f"{tally.failed} requests failed: {kinds}")
        if not tally.whole:
            found.append("no answer came to its end")
        found += [
            f"{name} is {self.idle[name]} at the end"
            for name in ("active", "queued")
            if self.idle.get(name)
        ]
        return found + self._leaks()

    def _leaks(self) -> list[str]:
        found = []
        for name, pick in PICKS.items():
            growth = self.growth(pick)
            room = GROWTH_BYTES if "memory" in name else GROWTH_COUNT
            if growth is not None and growth[1] > GROWTH * growth[0] + room:
                found.append(f"{name} grew from {growth[0]:,} to {growth[1]:,}")
        slope = self.slope
        if slope is not None and self._last_s >= SLOPE_LEAST_S and slope > SLOPE_MIB:
            found.append(f"resident memory grew by {slope:.2f} MiB a minute")
        for name, before, after, room in (
            ("files", self.before.files, self.after.files, LEFT_FILES),
            ("threads", self.before.threads, self.after.threads, LEFT_THREADS),
        ):
            if before is not None and after is not None and after > before + room:
                found.append(f"{after} {name} at the end, {before} before")
        return found

    @property
    def last(self) -> Sequence[Reading]:
        """The readings of the process that was there last."""
        process = self.readings[-1].process if self.readings else 0
        return [reading for reading in self.readings if reading.process == process]

    @property
    def _last_s(self) -> float:
        last = self.last
        return last[-1].at_s - last[0].at_s if last else 0.0

    def growth(self, pick: Pick) -> tuple[int, int] | None:
        """Medians of the second and the last quarter of the readings: flat after warm-up means
        that they are alike. None with too few readings."""
        values = [value for reading in self.last if (value := pick(reading)) is not None]
        quarter = len(values) // 4
        if quarter < 2:
            return None
        middle = sorted(values[quarter : 2 * quarter])[quarter // 2]
        return middle, sorted(values[-quarter:])[quarter // 2]

    @property
    def slope(self) -> float | None:
        """MiB a minute by which resident memory grows: the line of least squares through the
        readings after the first third. None with too few."""
        last = self.last
        points = [(r.at_s / 60, r.rss / MIB) for r in last[len(last) // 3 :] if r.rss is not None]
        if len(points) < 4:
            return None
        middle = sum(x for x, _ in points) / len(points)
        height = sum(y for _, y in points) / len(points)
        across = sum((x - middle) ** 2 for x, _ in points)
        return sum((x - middle) * (y - height) for x, y in points) / across if across else None

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "streams": self.streams,
            "seconds": self.seconds,
            "kills": self.kills,
            "requests": self.tally.requests,
            "tally": asdict(self.tally),
            "growth": {name: self.growth(pick) for name, pick in PICKS.items()},
            "rss_mib_per_minute": self.slope,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "idle": dict(self.idle),
            "failures": self.failures,
            "readings": [asdict(reading) for reading in self.readings],
        }
