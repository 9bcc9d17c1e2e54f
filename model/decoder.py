"""All sequences that decode at the moment, as lanes by the size of their KV.

Rows of one lane share a capacity, so a short sequence does not share a lane with one of a hundred
thousand tokens: it would be padded to that size. Knows neither text nor policy.
"""

from __future__ import annotations

from model.constraint import TokenConstraint
from model.generation import Generation
from model.lane import Lane
from model.steps import Steps

SMALLEST_LANE = 1024
GROWTH = 4


def lane_size(tokens: int) -> int:
    """The largest number of tokens in the lane that a sequence of `tokens` belongs to."""
    size = SMALLEST_LANE
    while size < tokens:
        size *= GROWTH
    return size


class Decoder:
    """Steps any number of generations at once. `alone`: every one in a lane of its own, so that
    each is computed by the same kernels whatever else runs."""

    def __init__(self, steps: Steps, *, alone: bool = False):
        self._steps = steps
        self._alone = alone
        self._lanes: dict[object, Lane] = {}
        self._members: list[Generation] = []

    @property
    def members(self) -> tuple[Generation, ...]:
        return tuple(self._members)

    def join(
        self,
        generation: Generation,
        token: int,
        *,
        constraint: TokenConstraint | None = None,
        top: int | None = None,
    ) -> None:
        """`generation`, whose prompt is fed but for its last `token`, decodes from now on; for the
        others see Generation.begin()."""
        generation.begin(token, constraint=constraint, top=top)
        self.rejoin(generation)

    def rejoin(self, generation: Generation) -> None:
        """A recovered `generation`, whose tokens but the last are fed, goes on decoding."""
        self._members.append(generation)
        self._enter(generation)

    def leave(self, generation: Generation) -> None:
        """`generation` keeps its state and decodes no more; nothing happens if it does not."""
        if generation in self._members:
            self._members.remove(generation)
            self._exit(generation)

    def step(self) -> list[tuple[Generation, int]]:
        """One token for every generation but those that are being fed forced tokens. -1 stands for
        logits that were not finite: that generation has to leave."""
        self._rehouse()
        results: list[tuple[Generation, int]] = []
        by_row = {id(generation.row): generation for generation in self._members}
        for lane in list(self._lanes.values()):
            rows = lane.rows
            for row, token in zip(rows, lane.step(), strict=True):
                generation = by_row[id(row)]
                if token is not None:
                    results.append((generation, token))
        return results

    def abandon(self) -> list[Generation]:
        """After a failure: forgets everybody; their states are lost. Returns them."""
        members, self._members = self._members, []
        for lane in self._lanes.values():
            lane.abandon()
        self._lanes.clear()
        return members

    def _rehouse(self) -> None:
        """Moves those that outgrew their lane, when its tails are merged anyway."""
        full = [lane for lane in self._lanes.values() if lane.tail_full]
        for generation in self._members:
            lane = generation.lane
            if lane in full and self._lanes.get(self._key(generation)) is not lane:
                self._exit(generation)
                self._enter(generation)

    def _key(self, generation: Generation) -> object:
        return generation if self._alone else lane_size(generation.position)

    def _enter(self, generation: Generation) -> None:
        lane = self._lanes.setdefault(self._key(generation), Lane(self._steps))
        lane.join(generation.row)
        generation.lane = lane

    def _exit(self, generation: Generation) -> None:
        lane = generation.lane
        generation.lane = None
        if lane is None:
            return
        lane.leave(generation.row)
        if not lane.rows:
            self._lanes = {key: other for key, other in self._lanes.items() if other is not lane}
