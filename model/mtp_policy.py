"""Whether and how far ahead a row guesses: what it gains by accepted guesses against what the
longer step costs, both as measured.

Pure arithmetic over figures it is given: no clock, no device, no rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

MtpDepth = Literal["auto", 0, 1, 2, 3]

MOST = 3
MARGIN = 1.05  # a gain that is less is none
REVIEW = 16  # steps of a row between two decisions
FIRST_PAUSE, LONGEST_PAUSE = 64, 4096  # tokens without guesses before the next try
_AT_FIRST = 0.7  # share of guesses accepted, before any was seen
_AT_BEST = 0.95
_FOLLOW = 0.1  # of a new figure in an average
_OUTLIER = 3.0  # times the average: what a figure counts at most


@dataclass(slots=True)
class Pace:
    """What the policy knows of one row. share: of guesses that are accepted where the one before
    was; None before the first. depth: the last decision, for `left` more steps."""

    share: float | None = None
    depth: int | None = None
    left: int = 0
    pause: int = FIRST_PAUSE


@dataclass(slots=True)
class StepCosts:
    """Seconds of a step by its number of rows and of tokens fed for each row."""

    _seconds: dict[tuple[int, int], float] = field(default_factory=dict)

    def add(self, rows: int, width: int, seconds: float) -> None:
        """A step took `seconds`."""
        before = self._seconds.get((rows, width))
        if before is None:
            self._seconds[rows, width] = seconds
        else:
            new = min(seconds, _OUTLIER * before)
            self._seconds[rows, width] = before + _FOLLOW * (new - before)

    def ratio(self, rows: int, width: int) -> float | None:
        """What a step with `width` tokens a row costs in steps with one; where it was not measured,
        as with the nearest number of rows, or in proportion to the nearest width. None before
        anything was."""
        known = [
            (abs(r - rows), abs(w - width), seconds / self._seconds[r, 1], w)
            for (r, w), seconds in self._seconds.items()
            if w > 1 and (r, 1) in self._seconds
        ]
        if not known:
            return None
        _, _, ratio, measured = min(known)
        return 1 + (ratio - 1) * (width - 1) / (measured - 1)


@dataclass(slots=True)
class DepthPolicy:
    """choice: "auto", or the depth of every row. depths: those that auto may choose."""

    choice: MtpDepth = "auto"
    depths: tuple[int, ...] = (1, 2, 3)
    costs: StepCosts = field(default_factory=StepCosts)
    share: float = _AT_FIRST  # of all rows, for those of which nothing is known yet

    @property
    def most(self) -> int:
        """The largest depth that there may be."""
        return max(self.depths, default=0) if self.choice == "auto" else self.choice

    def depth(self, pace: Pace, rows: int) -> int:
        """How many tokens a row guesses in the next step, among `rows` rows; 0 for none."""
        if self.choice != "auto":
            return self.choice
        if pace.depth is None or pace.left <= 0:
            self._decide(pace, rows)
        return pace.depth or 0

    def guessed(self, pace: Pace, depth: int, accepted: int) -> None:
        """A step of a row is over, in which `accepted` of `depth` guesses were."""
        pace.left -= 1
        tried = min(accepted + 1, depth)  # what comes after a wrong one says nothing
        for index in range(tried):
            hit = float(index < accepted)
            if pace.share is None:
                pace.share = self.share
            pace.share += _FOLLOW * (hit - pace.share)
            self.share += _FOLLOW / 10 * (hit - self.share)

    def plain(self, pace: Pace) -> None:
        """A step of a row without guesses is over."""
        pace.left -= 1

    def may_pay(self, rows: int = 1) -> bool:
        """Whether guesses can gain anything, were almost all of them right."""
        return self.choice != 0 and (self.choice != "auto" or self._best(_AT_BEST, rows) > 0)

    def gain(self, share: float, depth: int, rows: int) -> float:
        """Tokens in the time of one step with one token a row; more than 1 pays."""
        tokens = sum(share**index for index in range(depth + 1))
        if not depth:
            return 1.0
        ratio = self.costs.ratio(rows, depth + 1)
        # Nothing is guessed on a machine of which nothing is known.
        return 0.0 if ratio is None else tokens / max(ratio, 1e-6)

    def _best(self, share: float, rows: int) -> int:
        gains = {depth: self.gain(share, depth, rows) for depth in (0, *self.depths)}
        best = max(gains, key=lambda depth: gains[depth])
        return best if gains[best] > MARGIN else 0

    def _decide(self, pace: Pace, rows: int) -> None:
        share = self.share if pace.share is None else pace.share
        retry = pace.depth == 0  # its pause is over
        if retry:
            share = max(share, _AT_FIRST)
        depth = self._best(share, rows)
        if depth:
            pace.left = REVIEW
        else:
            pace.left, pace.pause = pace.pause, min(2 * pace.pause, LONGEST_PAUSE)
        if retry and depth:
            pace.share = share  # what it was is long ago
        pace.depth = depth
