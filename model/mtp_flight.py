"""One speculative step on its way, and what each of its rows takes from it: the state after any of
the tokens it was fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from model.attention import KVBuffers
from model.lane import Row, stacked_scores
from model.lane_state import LaneState
from model.mtp import WINDOW, MtpHead
from model.mtp_state import MtpState
from model.mtp_steps import Captured
from model.sampler import Arrays, count_fed
from model.scores import Scores, TokenScores, read
from model.state import TAIL, LayerStates, SequenceState

MOST_DEPTH = 3
# Of the head's own keys: what it keeps when rows are gathered, and all that may come before the
# tails are full.
PLACES = WINDOW + TAIL + 2 * (MOST_DEPTH + 1)


@dataclass(slots=True)
class Flight:
    """A step of `rows`, fed [B, T] tokens; place t is after token t of them.

    layers: bodies and tails; captured: the recurrent states after each place; carry: what it left
    for the next step; before: the samplers' arrays before it; keys: theirs after each place; fixed:
    how many of the tokens fed were fixed for each row, 0 for none, and forced: how many of those in
    place of what was sampled; unseen: of rows that were only gathered, how many places the head has
    not seen. tails and heads: tokens in the tail before it, places its head had seen with the first
    token; known once the step before it was read. values and last: samples, and the last place that
    counts; known once it was read.
    """

    rows: list[Row]
    layers: LayerStates
    body_lengths: list[int]
    captured: Captured
    carry: Arrays
    before: Arrays
    keys: mx.array | None
    fed: mx.array
    generated: mx.array
    samples: mx.array
    places: mx.array
    found: Scores | None
    fixed: list[int]
    forced: list[int]
    offsets: list[int]
    tails: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    unseen: list[int] | None = None
    values: list[list[int]] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    scored: list[TokenScores] = field(default_factory=list)

    def first(self, index: int) -> int:
        """The place up to which a row's tokens were known when the step was queued."""
        return max(self.fixed[index] - 1, 0)

    def wait(self, most: int) -> None:
        """Reads it; of the scores, the `most` likeliest tokens of each place."""
        self.values = self.samples.tolist()  # type: ignore[assignment]
        self.last = self.places.tolist()  # type: ignore[assignment]
        if self.found is not None:
            self.scored = read(self.found, most)

    def said(self, index: int) -> list[tuple[int, TokenScores | None]]:
        """What a row said in it, with scores where it asked for them."""
        row, width = self.rows[index], self.samples.shape[1]
        told: list[tuple[int, TokenScores | None]] = []
        for place in range(self.first(index), self.last[index] + 1):
            scored = None
            if row.top is not None and self.scored:
                whole = self.scored[index * width + place]
                scored = TokenScores(whole.logprob, whole.top[: row.top])
            told.append((self.values[index][place], scored))
        return told

    def follow(self, flight: Flight) -> None:
        """`flight`, the step before this one, was read."""
        steps = [last + 1 for last in flight.last]
        self.tails = [a + b for a, b in zip(flight.tails, steps, strict=True)]
        self.heads = [a + b for a, b in zip(flight.heads, steps, strict=True)]

    def give(self, row: Row, index: int, place: int) -> None:
        """Row `index` of it becomes `row`'s own, as after `place`; `row.tokens` are those up to
        there."""
        config, dtype = row.state.config, row.state.dtype
        state = SequenceState(config, dtype)
        state.body_length = self.body_lengths[index]
        state.tail_length = self.tails[index] + place + 1
        state.borrowed = len(self.rows) > 1

        def cut(array: mx.array) -> mx.array:
            return array[index : index + 1] if state.borrowed else array

        kv = [
            KVBuffers(cut(k.body_keys), cut(k.body_values), cut(k.tail_keys), cut(k.tail_values))
            for k in self.layers.kv
        ]
        conv_tails, recurrent = ([cut(x)[:, place] for x in part] for part in self.captured)
        state.layers = LayerStates(kv, conv_tails, recurrent)
        row.state = state
        sampler = row.sampler
        if sampler is not None and sampler.key is not None and self.keys is not None:
            sampler.key = cut(self.keys)[:, place]
        if sampler is not None and sampler.counts is not None:
            counts: Arrays = {"counts": cut(self.before["counts"])}
            for fed in range(place + 1):
                counts = count_fed(counts, cut(self.fed)[:, fed], cut(self.generated)[:, fed])
            sampler.counts = counts["counts"]
        row.sampled = cut(self.samples)[:, place]
        row.found = None
        if self.found is not None and row.top is not None:
            at = index * self.samples.shape[1] + place
            chosen, ids, values = (array[at : at + 1] for array in self.found)
            row.found = chosen, ids, values
        unseen = place + 1 if self.unseen is None else self.unseen[index]
        row.mtp = MtpState(
            position=len(row.tokens),
            hidden=cut(self.carry["hidden"])[:, :unseen] if unseen else None,
            keys=cut(self.carry["head_keys"]),
            values=cut(self.carry["head_values"]),
            count=self.heads[index],
            offset=self.offsets[index],
        )


def gathered(
    rows: Sequence[Row], stack: LaneState, head: MtpHead, width: int, moving: Arrays
) -> tuple[Flight, Arrays]:
    """Rows stacked in `stack`, as if a step of one token had left them there, and the carry for
    their first step of `width` tokens."""
    none = mx.zeros((1,), mx.int32)
    samples = mx.stack([none if row.sampled is None else row.sampled for row in rows])
    states = [_caught_up(row, head, width) for row in rows]
    dtype = head.network.dtype
    hidden, nexts, unseen = [], [], []
    for row, state in zip(rows, states, strict=True):
        seen_last = state.hidden
        count = 0 if seen_last is None else seen_last.shape[1]
        padding = mx.zeros((1, width - count, head.config.hidden_size), dtype)
        hidden.append(padding if seen_last is None else mx.concatenate([seen_last, padding], 1))
        pending = mx.array([row.forced[0][0]], mx.int32) if row.forced else row.sampled
        assert pending is not None  # noqa: S101 - asked for when it joined
        known = mx.array(row.tokens[len(row.tokens) - max(count - 1, 0) :], mx.int32)
        rest = mx.zeros((width - max(count, 1),), mx.int32)
        nexts.append(mx.concatenate([known, pending, rest])[None])
        unseen.append(count)
    buffers = [state.buffers(head, PLACES, dtype) for state in states]
    counts, offsets = [state.count for state in states], [state.offset for state in states]
    last = mx.array([max(count - 1, 0) for count in unseen], mx.int32)
    carry = {
        "last": last,
        "tail_lengths": mx.array([stack.tail_length] * len(rows), mx.int32),
        "hidden": mx.concatenate(hidden),
        "nexts": mx.concatenate(nexts),
        "pairs": mx.array(unseen, mx.int32),
        "head_keys": mx.concatenate([keys for keys, _ in buffers]),
        "head_values": mx.concatenate([values for _, values in buffers]),
        "head_counts": mx.array(counts, mx.int32),
        "head_offsets": mx.array(offsets, mx.int32),
    }
    captured: Captured = [[x[:, None] for x in part] for part in stack.layers.moving()[2:]]
    zeros = mx.zeros((len(rows), 1), mx.int32)
    flight = Flight(
        list(rows),
        stack.layers,
        list(stack.body_lengths),
        captured,
        carry,
        moving,
        moving["key"][:, None] if "key" in moving else None,
        zeros,
        zeros,
        samples,
        mx.zeros((len(rows),), mx.int32),
        stacked_scores([row.found for row in rows]),
        [0] * len(rows),
        [0] * len(rows),
        offsets,
        [stack.tail_length - 1] * len(rows),
        counts,
        unseen,
    )
    return flight, carry


def _caught_up(row: Row, head: MtpHead, width: int) -> MtpState:
    state = MtpState() if row.mtp is None else row.mtp
    state.catch_up(head, row.tokens, width)
    state.shrink()
    row.mtp = None
    return state
