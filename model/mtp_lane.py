"""Rows that speculate together: each step feeds the pending token of every row and D guesses, and a
row goes on by one to D + 1 tokens.

As in a plain lane (lane.py) a step is queued before the one before it is read, and what was sampled
in a step is told when it is fed in the next. A row that ends, or is told otherwise, in the midst of
what a step said takes the state that was captured there. Knows nothing of text or policy.
"""

from __future__ import annotations

import mlx.core as mx

from model.attention import KVBuffers
from model.lane import Row
from model.lane_state import LaneState
from model.mtp_flight import Flight, gathered
from model.mtp_steps import Fed, MtpSteps
from model.sampler import Arrays, Variant, gather
from model.state import TAIL


class MtpLane:
    """Rows that step together with `depth` guesses each."""

    def __init__(self, steps: MtpSteps, depth: int):
        self.depth = depth
        self._steps = steps
        self._width = depth + 1
        self._rows: list[Row] = []
        self._stack: LaneState | None = None
        self._variant = Variant.of()
        self._constants: Arrays = {}
        self._moving: Arrays = {}
        self._carry: Arrays = {}
        self._said: dict[int, int] = {}  # by a row's id: how many tokens it was told last
        self._before: Flight | None = None  # what was told was sampled in it
        self._flight: Flight | None = None  # queued and not read
        self._usual: Fed | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(self._rows)

    def join(self, row: Row) -> None:
        """`row` steps from the next step on."""
        if row.sampler is None or (row.sampled is None and not row.forced):
            raise ValueError("the first step needs the prompt's last token")
        self._rows.append(row)

    def leave(self, row: Row, *, one_back: bool = False) -> None:
        """Gives `row` its own: the state after exactly its tokens; the others go on. With
        `one_back` the last token it was told is taken back, to be fed again before the next draw.
        """
        self._give_back(row, one_back=one_back)
        self._rows.remove(row)
        row.told.clear()
        row.taken = 0

    def abandon(self) -> list[Row]:
        """After a failure: forgets all rows, whose states are lost, and returns them."""
        rows, self._rows = self._rows, []
        for row in rows:
            row.told.clear()
            row.mtp, row.taken = None, 0
        self._forget()
        return rows

    def step(self) -> None:
        """One step: puts what each row goes on by into its `told`. What was told at the step before
        has to be taken by now (Row.take); what was not is taken back from the row."""
        if self._flight is not None and self._changed():
            for row in self._rows:
                self._give_back(row)
            self._forget()
        flight = self._flight
        if flight is None:
            self._before = flight = self._gather()
            self._flight = self._queue(flight)
            flight.wait(self._most)
        elif max(flight.tails) + 2 * self._width > TAIL:
            flight.wait(self._most)
            for index, row in enumerate(self._rows):
                flight.give(row, index, flight.last[index])
            self._before = flight
            self._flight = self._queue(self._gather())
        else:
            queued = self._queue(flight)
            self._before, self._flight = flight, queued
            flight.wait(self._most)
            queued.follow(flight)
        self._tell(flight)

    @property
    def _most(self) -> int:
        return max(row.top or 0 for row in self._rows)

    def _tell(self, flight: Flight) -> None:
        assert self._flight is not None  # noqa: S101 - queued a moment ago
        self._said.clear()
        for index, row in enumerate(self._rows):
            if flight.unseen is None and not flight.fixed[index]:
                row.outcomes.append((self.depth, flight.last[index]))
            said = [] if self._flight.forced[index] else flight.said(index)
            self._said[id(row)] = len(said)
            row.told.clear()
            row.told.extend(said)
            row.taken = 0

    def _changed(self) -> bool:
        """Whether what was queued is not what the rows go on with."""
        flight = self._flight
        if flight is None or len(flight.rows) != len(self._rows):
            return True
        for index, (row, stepped) in enumerate(zip(self._rows, flight.rows, strict=True)):
            if row is not stepped or row.taken != self._said[id(row)]:
                return True
            if row.forced and not flight.fixed[index]:
                return True
        return False

    def _give_back(self, row: Row, *, one_back: bool = False) -> None:
        """The state after exactly the tokens of `row`, or of all but the last, becomes its own."""
        before, flight = self._before, self._flight
        if before is None or flight is None or row not in flight.rows:
            return
        index = flight.rows.index(row)
        if one_back:
            token = row.tokens.pop()
            before.give(row, index, before.first(index) + row.taken - 1)
            row.sampled = row.found = None
            row.forced.appendleft((token, True))
        elif row.taken == self._said[id(row)]:
            flight.give(row, index, flight.first(index))
        else:
            before.give(row, index, before.first(index) + row.taken)

    def _forget(self) -> None:
        self._stack = self._before = self._flight = self._usual = None
        self._constants, self._moving, self._carry = {}, {}, {}

    def _gather(self) -> Flight:
        """Stacks the rows. Returns what they come from, as if it had been a step."""
        rows, head = self._rows, self._steps.head
        self._stack = stack = LaneState([row.state for row in rows])
        if stack.tail_length + 2 * self._width > TAIL:
            stack.merge_tails()
        samplers = [row.sampler for row in rows if row.sampler is not None]
        vocabulary = head.config.vocab_size
        self._variant, self._constants, self._moving = gather(samplers, vocabulary)
        flight, self._carry = gathered(rows, stack, head, self._width, self._moving)
        self._usual = None
        return flight

    def _fed(self, flight: Flight) -> tuple[Fed, list[int], list[int]]:
        """What to feed after `flight`, how many of the tokens are fixed for each row, and how many
        forced."""
        forced = [min(len(row.forced), self._width) for row in self._rows]
        # Without the last token's hidden vector nothing can be guessed.
        blind = [False] * len(forced) if flight.unseen is None else [not n for n in flight.unseen]
        fixed = [count or int(flag) for count, flag in zip(forced, blind, strict=True)]
        if not any(fixed) and self._usual is not None:
            return self._usual, fixed, forced
        given: list[list[int]] = []
        generated: list[list[int]] = []
        for row, count in zip(self._rows, forced, strict=True):
            first, rest = [row.forced[place] for place in range(count)], self._width - count
            given.append([token for token, _ in first] + [-1] * (rest + 1))
            generated.append([int(flag) for _, flag in first] + [1] * rest)
        arrays = [mx.array(part, mx.int32) for part in (given, generated, fixed)]
        fed = Fed(*arrays)
        if not any(fixed):
            self._usual = fed
        return fed, fixed, forced

    def _queue(self, after: Flight) -> Flight:
        """Queues the step that comes after `after`."""
        stack = self._stack
        assert stack is not None  # noqa: S101 - the caller gathered
        fed, fixed, forced = self._fed(after)
        before = self._moving
        outcome = self._steps.run(
            self._variant,
            stack.layers,
            after.captured,
            stack.lengths(),
            self._carry,
            self._constants,
            before,
            fed,
            scored=any(row.top is not None for row in self._rows),
        )
        keys, values = outcome.tails
        for index, kv in enumerate(stack.layers.kv):
            stack.layers.kv[index] = KVBuffers(
                kv.body_keys, kv.body_values, keys[index], values[index]
            )
        self._carry, self._moving = outcome.carry, outcome.moving
        mx.async_eval(outcome.samples, outcome.last, *(outcome.found or ()))
        for row, count in zip(self._rows, forced, strict=True):
            for _ in range(count):  # they leave their queue once they are fed
                token, generated = row.forced.popleft()
                row.feed(token, generated=generated)
        return Flight(
            list(self._rows),
            stack.layers.shared(),
            list(stack.body_lengths),
            outcome.captured,
            outcome.carry,
            before,
            outcome.keys,
            outcome.fed,
            fed.generated,
            outcome.samples,
            outcome.last,
            outcome.found,
            fixed,
            forced,
            after.offsets,
            [tail + 1 for tail in after.tails] if after.unseen is not None else [],
            [a + b for a, b in zip(after.heads, after.unseen, strict=True)]
            if after.unseen is not None
            else [],
        )
