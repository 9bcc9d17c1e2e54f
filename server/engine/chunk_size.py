"""How many prompt tokens fit into a given time: what chunks cost, measured, and their sizes.

A chunk's time is modelled as fixed + tokens x (per_token + per_context x context): reading the
weights, the matrix work, and attention over what came before. The three figures are fitted to what
was measured, recent chunks counting more, errors taken relative to the time measured, so that a
single hiccup weighs little. Above the fit stands a margin that rises at once when a chunk took
longer than fitted and sinks slowly. Pure arithmetic: no clock, no requests, no device.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

MIN_CHUNK = 32
MAX_CHUNK = 2048
# The sizes on offer: few, because kernels and their compilation like few shapes, and no further
# apart than the time budget can afford to lose.
SIZES = (*range(32, 256, 32), *range(256, 512, 64), *range(512, 1024, 128), *range(1024, 2049, 256))
# A chunk is never larger than this times the largest one measured...
GROWTH = 1.5
# ...nor larger than this in a context more than twice as long as any measured.
FIRST_CHUNK = 128

_MEMORY = 0.95  # weight of a figure against the next one
_SINK = 0.2  # part of the way down that the margin goes with every figure
_MAX_MARGIN = 4.0
_SWEEPS = 20


@dataclass(slots=True)
class ChunkSizer:
    """Predicts chunk times and sizes chunks by them; feed it every chunk with add()."""

    # Coefficients of tokens, 1 and tokens x context, in seconds, never negative.
    _fit: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    _products: list[list[float]] = field(default_factory=lambda: [[0.0] * 3 for _ in range(3)])
    _sums: list[float] = field(default_factory=lambda: [0.0] * 3)
    _margin: float = 1.0
    _largest: int = 0
    _furthest: float = 0.0

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return self._largest > 0

    def add(self, tokens: int, context: int, seconds: float) -> None:
        """A chunk of `tokens`, fed after `context` tokens, took `seconds`."""
        if tokens <= 0 or seconds <= 0:
            return
        # A short end of a prompt says nothing about how large a chunk may safely be.
        self._largest = max(self._largest, tokens)
        self._furthest = max(self._furthest, context + tokens)
        features = [x / seconds for x in _features(tokens, context)]
        for i in range(3):
            self._sums[i] = _MEMORY * self._sums[i] + features[i]
            for j in range(3):
                self._products[i][j] = _MEMORY * self._products[i][j] + features[i] * features[j]
        self._solve()
        expected = self._expected(tokens, context)
        excess = seconds / expected if expected > 0 else _MAX_MARGIN
        if excess >= self._margin:
            self._margin = min(excess, _MAX_MARGIN)
        else:
            self._margin += _SINK * (max(excess, 1.0) - self._margin)

    def seconds(self, tokens: int, context: int) -> float:
        """What a chunk will take, on the safe side; 0 before anything was measured."""
        return self._margin * self._expected(tokens, context)

    def fitting(self, room: float, context: int, first: int) -> int:
        """The largest size that takes at most `room` seconds after `context` tokens; 0 when none
        does. `first`: the size before anything was measured."""
        if not self.measured:
            return first
        limit = max(int(self._largest * GROWTH), first)
        if context > 2 * self._furthest:
            limit = FIRST_CHUNK
        by_time = bisect_right(SIZES, room, key=lambda size: self.seconds(size, context))
        by_limit = bisect_right(SIZES, limit)
        sizes = min(by_time, by_limit)
        return SIZES[sizes - 1] if sizes else 0

    def _expected(self, tokens: int, context: int) -> float:
        return sum(x * y for x, y in zip(self._fit, _features(tokens, context), strict=True))

    def _solve(self) -> None:
        """Least squares with coefficients >= 0, by coordinate descent from the last solution.

        Where the figures leave something open (all chunks of one size) it stays as it was; the
        first figure is thus put down to the tokens, the assumption that grows chunks with care.
        """
        for _ in range(_SWEEPS):
            for i in range(3):
                if self._products[i][i] > 0:
                    rest = sum(self._products[i][j] * self._fit[j] for j in range(3) if j != i)
                    self._fit[i] = max(0.0, (self._sums[i] - rest) / self._products[i][i])


def _features(tokens: int, context: int) -> tuple[float, float, float]:
    return tokens, 1.0, tokens * (context + tokens / 2)
