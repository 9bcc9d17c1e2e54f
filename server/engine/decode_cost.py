"""What a step of the decoding batch costs, by its number of rows, as measured.

Pure arithmetic: no clock, no requests, no device.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_SINK = 0.2
_MAX_RISE = 4.0


@dataclass(slots=True)
class RecentCost:
    """Seconds of one kind of work: rises at once, sinks slowly; a single figure at most
    quadruples it, so that a hiccup is soon forgotten. None before the first figure."""

    value: float | None = None

    def add(self, seconds: float) -> None:
        """Takes a measured figure."""
        if self.value is None:
            self.value = seconds
        elif seconds > self.value:
            self.value = min(seconds, max(_MAX_RISE * self.value, 1e-6))
        else:
            self.value += _SINK * (seconds - self.value)


@dataclass(slots=True)
class DecodeCost:
    """Seconds a step takes by its number of rows; what was not measured is estimated high."""

    # From the one measured longest ago to the latest.
    _by_rows: dict[int, RecentCost] = field(default_factory=dict)

    def add(self, rows: int, seconds: float) -> None:
        """A step of `rows` rows took `seconds`."""
        cost = self._by_rows.pop(rows, RecentCost())
        cost.add(seconds)
        self._by_rows[rows] = cost

    def seconds(self, rows: int) -> float:
        """What a step of `rows` rows will take; 0 before anything was measured."""
        least = 0.0
        for count, cost in reversed(self._by_rows.items()):
            if count == rows:
                return max(least, cost.value or 0.0)
            # More rows never cost less, so newer figures of fewer rows lift an older one.
            if count < rows:
                least = max(least, cost.value or 0.0)
        return max(least, self._guess(rows))

    def _guess(self, rows: int) -> float:
        """For a number of rows not measured: as the next larger one, or in proportion to the
        largest."""
        if not self._by_rows:
            return 0.0
        nearest = min((count for count in self._by_rows if count > rows), default=None)
        if nearest is None:
            nearest = max(self._by_rows)
        return (self._by_rows[nearest].value or 0.0) * max(1.0, rows / nearest)
