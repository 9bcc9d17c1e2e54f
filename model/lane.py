"""Sequences that decode together: one compiled step for all rows, queued ahead of the reading.

Sequences join and leave between steps; what is theirs (state, sampler, the token sampled last)
travels with them. Knows nothing of text, requests or policy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx

from model.constraint import Mask, TokenConstraint, stacked
from model.lane_state import LaneState
from model.mtp_policy import Pace
from model.sampler import Arrays, SamplerRow, Variant, gather
from model.scores import Scores, TokenScores, read
from model.state import SequenceState
from model.steps import Steps

if TYPE_CHECKING:
    from model.mtp_state import MtpState


@dataclass(eq=False, slots=True)
class Row:
    """A sequence as it steps; outside of any lane whole in itself.

    tokens: ids fed so far. sampled: [1] int32, sampled after the last of them, None before the
    first step. forced: (token, generated) to feed in place of what is sampled; a prompt's last
    token comes in this way, with generated false. constraint: has a say in what is sampled; it has
    accepted `accepted` of the tokens. top: how many likeliest tokens are told with the scores of
    each, None for no scores; found: the scores of `sampled`; scored: those of the token that step()
    returned last.

    For rows that speculate (mtp_lane.py): told: tokens to take() with their scores, of which
    `taken` were taken since the last step; mtp: what the head has of the sequence; outcomes:
    (guesses, accepted ones) of the steps that the policy was not told of; pace: what it knows.
    """

    state: SequenceState
    tokens: list[int] = field(default_factory=list)
    sampler: SamplerRow | None = None
    sampled: mx.array | None = None
    forced: deque[tuple[int, bool]] = field(default_factory=deque)
    constraint: TokenConstraint | None = None
    accepted: int = 0
    top: int | None = None
    found: Scores | None = None
    scored: TokenScores | None = None
    told: deque[tuple[int, TokenScores | None]] = field(default_factory=deque)
    taken: int = 0
    mtp: MtpState | None = None
    outcomes: list[tuple[int, int]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)

    @property
    def ruled(self) -> bool:
        """Whether its constraint holds at the moment."""
        return self.constraint is not None and self.constraint.mask() is not None

    @property
    def woken(self) -> bool:
        """Whether its constraint holds since a token that was taken in the last step."""
        return self.taken > 0 and self.ruled

    def take(self) -> int:
        """The next token that was told; it is fed."""
        token, self.scored = self.told.popleft()
        self.taken += 1
        self.feed(token, generated=True)
        return token

    def feed(self, token: int, *, generated: bool) -> None:
        """`token` was fed."""
        self.tokens.append(token)
        if generated and self.constraint is not None and len(self.tokens) > self.accepted:
            self.constraint.accept(token)
            self.accepted = len(self.tokens)


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
        self._found: Scores | None = None  # of `sampled`
        self._ruled = False  # the mask of some row held at the last step

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
        sampled, found = self._sampled, self._found
        # They leave their queue once they are fed: a step that fails takes nothing with it.
        forced = [row.forced[0] if row.forced else None for row in self._rows]
        fed = self._fed(forced)
        if any(row.constraint is not None or row.top is not None for row in self._rows):
            choose = self._queue_forward(fed)
            returned = self._read(sampled, found, forced)
            choose()
        else:
            self._queue(fed)
            returned = self._read(sampled, found, forced)
        return returned

    def _read(
        self, sampled: mx.array | None, found: Scores | None, forced: list[tuple[int, bool] | None]
    ) -> list[int | None]:
        """Waits for what was sampled and gives every row the token that it was fed."""
        read_tokens: list[int] = []
        if sampled is not None and not all(forced):
            read_tokens = sampled.tolist()  # type: ignore[assignment]
            if found is not None:
                self._read_scores(found)
        returned: list[int | None] = []
        for index, (row, token) in enumerate(zip(self._rows, forced, strict=True)):
            if token is None:
                row.feed(read_tokens[index], generated=True)
                returned.append(read_tokens[index])
            else:
                row.forced.popleft()
                row.feed(token[0], generated=token[1])
                returned.append(None)
        return returned

    def _read_scores(self, found: Scores) -> None:
        most = max(row.top or 0 for row in self._rows)
        for row, scored in zip(self._rows, read(found, most), strict=True):
            if row.top is not None:
                row.scored = TokenScores(scored.logprob, scored.top[: row.top])

    def abandon(self) -> list[Row]:
        """After a failure: forgets all rows, whose states are lost, and returns them."""
        rows, self._rows = self._rows, []
        self._state = self._sampled = self._found = None
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
        self._found = None
        mx.async_eval(self._sampled)

    def _queue_forward(self, fed: tuple[mx.array, mx.array]) -> Callable[[], None]:
        """Queues the forward half of a step; the function returned, to be called once the rows know
        the tokens fed, queues the other half. Rules mostly sleep: where none held at the last step,
        that is done in advance, and only done again where one has woken."""
        assert self._state is not None  # noqa: S101 - step() gathered
        tokens, generated = fed
        logits, moving = self._steps.forward(tokens, self._state, self._moving, generated)
        scored = any(row.top is not None for row in self._rows)

        def sample(mask: mx.array | None) -> None:
            self._sampled, self._moving, self._found = self._steps.choose(
                self._variant, logits, self._constants, moving, mask, scored=scored
            )
            mx.async_eval(self._sampled, *(self._found or ()))

        def choose() -> None:
            masks: list[Mask | None] = [
                None if row.constraint is None else row.constraint.mask() for row in self._rows
            ]
            ruled = any(mask is not None for mask in masks)
            if ruled:
                sample(stacked(masks, logits.shape[-1]))
            elif self._ruled:
                sample(None)
            self._ruled = ruled

        if self._ruled:
            mx.async_eval(logits)
        else:
            sample(None)
        return choose

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
        self._found = stacked_scores([row.found for row in rows])

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
            row.found = None
            if self._found is not None and row.top is not None:
                chosen, ids, values = (array[index : index + 1] for array in self._found)
                row.found = chosen, ids, values
        self._sampled = self._found = None


def stacked_scores(rows: list[Scores | None]) -> Scores | None:
    """The scores of all rows, somebody else's for those without; None when there are none."""
    known = next((found for found in rows if found is not None), None)
    if known is None:
        return None
    parts = [known if found is None else found for found in rows]
    chosen, ids, values = (mx.concatenate(list(column)) for column in zip(*parts, strict=True))
    return chosen, ids, values
