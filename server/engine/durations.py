"""How long pieces of work took: a histogram that one thread writes and any may read.

Knows no clock and no monitoring system; adding costs a search in a dozen numbers.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

# Seconds; of a step on a fast GPU up to a chunk on a slow CPU.
BOUNDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4, 0.8, 2.0, 5.0, 20.0, 60.0)


@dataclass(slots=True)
class Durations:
    """counts: one for each of BOUNDS (up to and with it), and one beyond; total_s: their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total_s += seconds
