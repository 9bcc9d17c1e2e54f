"""All sequences that decode at the moment, as lanes by the size of their KV.

Rows of one lane share a capacity, so a short sequence does not share a lane with one of a hundred
thousand tokens: it would be padded to that size. Rows that speculate share lanes of their own, by
how many tokens they guess. Knows no text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from model.constraint import TokenConstraint
from model.generation import Generation
from model.lane import Lane
from model.mtp_lane import MtpLane
from model.steps import Steps

SMALLEST_LANE = 1024
GROWTH = 4
_MOST_BETWEEN = 0.2  # of the time from step to step, for it to be a step's


def lane_size(tokens: int) -> int:
    """The largest number of tokens in the lane that a sequence of `tokens` belongs to."""
    size = SMALLEST_LANE
    while size < tokens:
        size *= GROWTH
    return size


class Decoder:
    """Steps any number of generations at once. `alone`: every one in a lane of its own, so that
    each is computed by the same kernels whatever else runs."""

    def __init__(
        self,
        steps: Steps,
        *,
        alone: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._steps = steps
        self._alone = alone
        self._clock = clock
        self._lanes: dict[object, Lane | MtpLane] = {}
        self._members: list[Generation] = []
        self._told: Told | None = None
        self._began = self._ended = 0.0  # when the last step did
        self._stepped: tuple[Lane | MtpLane, int] | None = None  # the last step's, if it had one

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
        self._enter(generation, self._depth(generation))

    def leave(self, generation: Generation) -> None:
        """`generation` keeps its state and decodes no more; nothing happens if it does not."""
        if generation in self._members:
            self._members.remove(generation)
            self._exit(generation)

    def step(self) -> Told:
        """One step for every generation, and what they go on by: one token each, none where forced
        tokens are fed, some where guesses were right. -1 stands for logits that were not finite:
        that generation has to leave."""
        if self._told is not None:
            for _ in self._told:  # whoever stepped did not want to know
                pass
        self._rehouse()
        self._note_time()
        plain: list[tuple[Generation, int]] = []
        by_row = {id(generation.row): generation for generation in self._members}
        guessing: list[Generation] = []
        for lane in list(self._lanes.values()):
            rows = lane.rows
            if isinstance(lane, MtpLane):
                lane.step()
                guessing += [by_row[id(row)] for row in rows]
                continue
            for row, token in zip(rows, lane.step(), strict=True):
                if token is not None:
                    plain.append((by_row[id(row)], token))
        self._told = Told(plain, guessing)
        self._ended = self._clock()
        return self._told

    def abandon(self) -> list[Generation]:
        """After a failure: forgets everybody; their states are lost. Returns them."""
        members, self._members = self._members, []
        for lane in self._lanes.values():
            lane.abandon()
        self._lanes.clear()
        self._told = self._stepped = None
        return members

    def _rehouse(self) -> None:
        """Moves those that outgrew their lane, when its tails are merged anyway, and those that
        begin or end to speculate."""
        full = [lane for lane in self._lanes.values() if isinstance(lane, Lane) and lane.tail_full]
        for generation in self._members:
            lane, depth = generation.lane, self._depth(generation)
            guessing = isinstance(lane, MtpLane)
            if depth != (lane.depth if isinstance(lane, MtpLane) else 0) or (
                (guessing or lane in full)
                and self._lanes.get(self._key(generation, depth)) is not lane
            ):
                # Rules that have begun to hold have a say in what comes after the last token.
                self._exit(generation, one_back=guessing and generation.row.woken)
                self._enter(generation, depth)

    def _depth(self, generation: Generation) -> int:
        """How many tokens `generation` guesses from now on."""
        if self._alone:
            return 0
        return generation.depth(len(self._members))

    def _key(self, generation: Generation, depth: int) -> object:
        if self._alone:
            return generation
        size = lane_size(generation.position)
        return (depth, size) if depth else size

    def _enter(self, generation: Generation, depth: int) -> None:
        key, mtp = self._key(generation, depth), self._steps.mtp
        lane = self._lanes.get(key)
        if lane is None:
            lane = Lane(self._steps) if not depth or mtp is None else MtpLane(mtp.steps, depth)
            self._lanes[key] = lane
        lane.join(generation.row)
        generation.lane = lane

    def _exit(self, generation: Generation, *, one_back: bool = False) -> None:
        lane, generation.lane = generation.lane, None
        if isinstance(lane, MtpLane):
            lane.leave(generation.row, one_back=one_back)
        elif lane is not None:
            lane.leave(generation.row)
        if lane is not None and not lane.rows:
            self._lanes = {key: other for key, other in self._lanes.items() if other is not lane}

    def _note_time(self) -> None:
        """Tells the policy what a step took, from one to the next, where nothing came between."""
        now, mtp = self._clock(), self._steps.mtp
        lanes = list(self._lanes.values())
        if mtp is not None and self._stepped is not None and len(lanes) == 1:
            lane, rows = self._stepped
            between = now - self._ended  # a prompt's chunk, say
            alone = between < _MOST_BETWEEN * (now - self._began)
            if lane is lanes[0] and rows == len(lane.rows) and alone:
                width = lane.depth + 1 if isinstance(lane, MtpLane) else 1
                mtp.policy.costs.add(rows, width, now - self._began)
        self._began = now
        self._stepped = (lanes[0], len(lanes[0].rows)) if len(lanes) == 1 else None


class Told:
    """What a step's generations go on by, to be read once: (generation, token). A token of one that
    speculates counts as fed when it is read; the rest of what it would go on by is dropped where it
    left, or was forced something, meanwhile, or where its rules have just begun to hold."""

    def __init__(self, plain: list[tuple[Generation, int]], guessing: list[Generation]):
        self._tokens = self._read(plain, guessing)

    def __iter__(self) -> Iterator[tuple[Generation, int]]:
        return self._tokens

    @staticmethod
    def _read(
        plain: list[tuple[Generation, int]], guessing: list[Generation]
    ) -> Iterator[tuple[Generation, int]]:
        yield from plain
        for generation in guessing:
            row = generation.row
            while row.told:
                token = row.take()
                yield generation, token
                if row.forced or row.ruled:
                    row.told.clear()
