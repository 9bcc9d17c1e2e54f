"""Sequences that decode together: one compiled step for all rows, queued ahead of the reading.

Sequences join and leave between steps; what is theirs (state, sampler, the token sampled last)
travels with them. Knows nothing of text, requests or policy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import mlx.core as mx

from model.lane_state import LaneState
from model.sampler import Arrays, SamplerRow, Variant, gather
from model.state import SequenceState
from model.steps import Steps


@dataclass(eq=False, slots=True)
class Row:
    """A sequence as it steps; outside of any lane whole in itself.

    tokens: ids fed so far. sampled: [1] int32, sampled after the last of them, None before the
    first step. forced: (token, generated) to feed in place of what is sampled; a prompt's last
    token comes in this way, with generated false.
    """

    state: SequenceState
    tokens: list[int] = field(default_factory=list)
    sampler: SamplerRow | None = None
    sampled: mx.array | None = None
    forced: deque[tuple[int, bool]] = field(default_factory=deque)


class Lane:
    """Rows that step together."""

    def __init__(self, steps: Steps):
        self._steps = steps
        self._rows: list[Row] = []
        self._state: LaneState | None = None  # None: the rows hold their own
        self._variant = Variant.of()
        self._constants: Arrays = {}
        self._moving: Arrays = {}
        self._sampled: mx.array | None = None  # [B]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(self._rows)

    @property
    def tail_full(self) -> bool:
        """Whether the next step merges the tails: a good moment to change the company."""
        return self._state is not None and self._state.tail_full

    def join(self, row: Row) -> None:
        """`row` steps from the next step on."""
        if row.sampler is None or (row.sampled is None and not row.forced):
            raise ValueError("the first step needs the prompt's last token")
        self._scatter()
        self._rows.append(row)

    def leave(self, row: Row) -> None:
        """Gives `row` back what is its own; the others go on."""
        self._scatter()
        self._rows.remove(row)

    def step(self) -> list[int | None]:
        """One step: feeds each row the token sampled for it (or forced), and returns that token, in
        the order of `rows`: -1 where the logits were not finite, None where it was forced. The step
        that was queued computes while the caller works on what is returned."""
        if self._state is None:
            self._gather()
        sampled = self._sampled
        forced = [row.forced.popleft() if row.forced else None for row in self._rows]
        self._queue(self._fed(forced))
        read: list[int] = []
        if sampled is not None and not all(forced):
            read = sampled.tolist()  # type: ignore[assignment]
        returned: list[int | None] = []
        for index, (row, token) in enumerate(zip(self._rows, forced, strict=True)):
            row.tokens.append(read[index] if token is None else token[0])
            returned.append(read[index] if token is None else None)
        return returned

    def abandon(self) -> list[Row]:
        """After a failure: forgets all rows, whose states are lost, and returns them."""
        rows, self._rows = self._rows, []
        self._state = self._sampled = None
        self._constants, self._moving = {}, {}
        return rows

    def _fed(self, forced: list[tuple[int, bool] | None]) -> tuple[mx.array, mx.array]:
        """Tokens [B] to feed and whether they were generated, int32 [B]."""
        generated = mx.array([int(f is None or f[1]) for f in forced], mx.int32)
        if self._sampled is not None and not any(forced):
            return self._sampled, generated
        tokens = mx.array([0 if f is None else f[0] for f in forced], mx.int32)
        if self._sampled is not None and not all(forced):
            tokens = mx.where(mx.array([f is None for f in forced]), self._sampled, tokens)
        return tokens, generated

    def _queue(self, fed: tuple[mx.array, mx.array]) -> None:
        assert self._state is not None  # noqa: S101 - step() gathered
        tokens, generated = fed
        self._sampled, self._moving, _ = self._steps.decode(
            self._variant, tokens, self._state, self._constants, self._moving, generated
        )
        mx.async_eval(self._sampled)

    def _gather(self) -> None:
        rows = self._rows
        self._state = LaneState([row.state for row in rows])
        vocabulary = self._steps.network.config.vocab_size
        samplers = [row.sampler for row in rows if row.sampler is not None]
        self._variant, self._constants, self._moving = gather(samplers, vocabulary)
        if all(row.sampled is None for row in rows):
            self._sampled = None
        else:
            none = mx.zeros((1,), mx.int32)
            parts = [none if row.sampled is None else row.sampled for row in rows]
            self._sampled = mx.concatenate(parts) if len(parts) > 1 else parts[0]

    def _scatter(self) -> None:
        """Gives every row its own again; the state is one that has seen all fed tokens."""
        if self._state is None:
            return
        states, self._state = self._state.scatter(), None
        for index, (row, state) in enumerate(zip(self._rows, states, strict=True)):
            row.state = state
            if row.sampler is not None:
                row.sampler.take(self._moving, index)
            if self._sampled is not None:
                row.sampled = self._sampled[index : index + 1]
        self._sampled = None
