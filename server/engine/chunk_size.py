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
SIZES = (
    *range(MIN_CHUNK, 128, 16),
    *range(128, 256, 32),
    *range(256, 512, 64),
    *range(512, 1024, 128),
    *range(1024, MAX_CHUNK + 1, 256),
)
# A chunk is never larger than this times the largest one lately measured...
GROWTH = 1.5
# ...nor larger than this before any was, or in a context more than twice as long as any lately.
FIRST_CHUNK = 128

_MEMORY = 0.95  # weight of a figure against the next one
_SINK = 0.2  # part of the way down that the margin goes with every figure
_MAX_MARGIN = 4.0
_SWEEPS = 50
_SHORTEST_S = 1e-6  # below that a clock says nothing


@dataclass(slots=True)
class ChunkSizer:
    """Predicts chunk times and sizes chunks by them; feed it every chunk with add()."""

    _fit: _Fit = field(default_factory=lambda: _Fit())
    _margin: float = 1.0
    _largest: float = 0.0
    # The range of contexts lately measured.
    _nearest: float = 0.0
    _furthest: float = 0.0

    @property
    def measured(self) -> bool:
        """Whether there is any figure."""
        return self._largest > 0

    def add(self, tokens: int, context: int, seconds: float) -> None:
        """A chunk of `tokens`, fed after `context` tokens, took `seconds`."""
        if tokens <= 0:
            return
        seconds = max(seconds, _SHORTEST_S)
        if not self.measured:
            self._nearest = context
        self._largest = max(tokens, _MEMORY * self._largest)
        self._furthest = max(context + tokens, _MEMORY * self._furthest)
        self._nearest = min(context, _MEMORY * self._nearest + (1 - _MEMORY) * context)
        self._fit.add(tokens, context, seconds)
        excess = seconds / max(self._fit.seconds(tokens, context), _SHORTEST_S)
        if excess >= self._margin:
            self._margin = min(excess, _MAX_MARGIN)
        else:
            self._margin += _SINK * (max(excess, 1.0) - self._margin)

    def seconds(self, tokens: int, context: int) -> float:
        """What a chunk will take, on the safe side; 0 before anything was measured."""
        # How much cheaper a short context is shows when there is one.
        return self._margin * self._fit.seconds(tokens, max(context, self._nearest))

    def fitting(self, room: float, context: int) -> int:
        """The largest size that takes at most `room` seconds after `context` tokens; 0 when none
        does. FIRST_CHUNK before anything was measured."""
        if not self.measured:
            return FIRST_CHUNK
        limit = self._largest * GROWTH
        if context > 2 * self._furthest:
            limit = min(limit, FIRST_CHUNK)
        by_time = bisect_right(SIZES, room, key=lambda size: self.seconds(size, context))
        sizes = min(by_time, bisect_right(SIZES, limit))
        return SIZES[sizes - 1] if sizes else 0


@dataclass(slots=True)
class _Fit:
    """Least squares of seconds = a x tokens + b + c x tokens x context, none of them negative."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0
    # Weighted sums of products of the features, each divided by the seconds measured.
    _aa: float = 0.0
    _ab: float = 0.0
    _ac: float = 0.0
    _bb: float = 0.0
    _bc: float = 0.0
    _cc: float = 0.0
    _a1: float = 0.0
    _b1: float = 0.0
    _c1: float = 0.0

    def seconds(self, tokens: float, context: float) -> float:
        return self.b + tokens * (self.a + self.c * (context + tokens / 2))

    def add(self, tokens: float, context: float, seconds: float) -> None:
        a, b, c = tokens / seconds, 1 / seconds, tokens * (context + tokens / 2) / seconds
        self._aa = _MEMORY * self._aa + a * a
        self._ab = _MEMORY * self._ab + a * b
        self._ac = _MEMORY * self._ac + a * c
        self._bb = _MEMORY * self._bb + b * b
        self._bc = _MEMORY * self._bc + b * c
        self._cc = _MEMORY * self._cc + c * c
        self._a1 = _MEMORY * self._a1 + a
        self._b1 = _MEMORY * self._b1 + b
        self._c1 = _MEMORY * self._c1 + c
        # Coordinate descent from the last solution: what the figures leave open (chunks of one
        # size say nothing about the fixed part) stays as it was, halved by the first figure.
        if not self.a and not self.b:
            self.a, self.b = seconds / 2 / tokens, seconds / 2
        for _ in range(_SWEEPS):
            self.a = max(0.0, (self._a1 - self._ab * self.b - self._ac * self.c) / self._aa)
            self.b = max(0.0, (self._b1 - self._ab * self.a - self._bc * self.c) / self._bb)
            self.c = max(0.0, (self._c1 - self._ac * self.a - self._bc * self.b) / self._cc)
