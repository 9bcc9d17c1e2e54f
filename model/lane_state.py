"""The states of several sequences that step together, stacked along the batch axis.

Rows have bodies of their own lengths in one capacity, and one tail length: all tails grow in step
and are merged together. Rows are gathered and scattered when the company changes; a single row is
used as it is, without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from model.attention import KVBuffers
from model.state import TAIL, LayerStates, SequenceState, bucket


class LaneState:
    """B rows; row r has `body_lengths[r] + tail_length` tokens. `layers` holds arrays of B rows."""

    def __init__(self, states: Sequence[SequenceState]):
        """Gathers sequences, which must not be used until `scatter` gives them back."""
        self.config, self.dtype = states[0].config, states[0].dtype
        if len(states) == 1 and not states[0].borrowed:
            (state,) = states
            self.layers = state.layers
            self.body_lengths, self.tail_length = [state.body_length], state.tail_length
        else:
            self.layers = _stacked(states)
            self.body_lengths, self.tail_length = [state.length for state in states], 0
        self._lengths: mx.array | None = None

    @property
    def rows(self) -> int:
        return len(self.body_lengths)

    @property
    def capacity(self) -> int:
        """Tokens a body holds; 0 without attention layers."""
        return self.layers.kv[0].body_keys.shape[2] if self.layers.kv else 0

    @property
    def tail_full(self) -> bool:
        return self.tail_length == TAIL

    def lengths(self) -> mx.array:
        """`body_lengths` as int32 [B]."""
        if self._lengths is None:
            self._lengths = mx.array(self.body_lengths, mx.int32)
        return self._lengths

    def scatter(self) -> list[SequenceState]:
        """The rows as sequences of their own; of several, they are views that hold the stack."""
        states = []
        for row, length in enumerate(self.body_lengths):
            state = SequenceState(self.config, self.dtype)
            state.body_length, state.tail_length = length, self.tail_length
            state.borrowed = self.rows > 1
            state.layers = self.layers if self.rows == 1 else _row(self.layers, row)
            states.append(state)
        return states

    def merge_tails(self) -> None:
        """Moves the tails into the bodies, which grow when they have to."""
        longest = max(self.body_lengths) + self.tail_length
        capacity = bucket(longest, self.config.max_position_embeddings)
        for kv in self.layers.kv:
            kv.body_keys = self._merged(kv.body_keys, kv.tail_keys, capacity)
            kv.body_values = self._merged(kv.body_values, kv.tail_values, capacity)
        self.body_lengths = [length + self.tail_length for length in self.body_lengths]
        self.tail_length, self._lengths = 0, None

    def _merged(self, body: mx.array, tail: mx.array, capacity: int) -> mx.array:
        if body.shape[2] < capacity:
            grown = mx.zeros((*body.shape[:2], capacity, body.shape[3]), self.dtype)
            body = mx.slice_update(grown, body, mx.array([0]), axes=(2,)) if body.size else grown
        for row, length in enumerate(self.body_lengths):
            filled = tail[row : row + 1, :, : self.tail_length]
            body = mx.slice_update(body, filled, mx.array([row, length]), axes=(0, 2))
        return body


def _row(layers: LayerStates, row: int) -> LayerStates:
    def cut(x: mx.array) -> mx.array:
        return x[row : row + 1]

    kv = [
        KVBuffers(cut(k.body_keys), cut(k.body_values), cut(k.tail_keys), cut(k.tail_values))
        for k in layers.kv
    ]
    return LayerStates(kv, [cut(x) for x in layers.conv_tails], [cut(x) for x in layers.recurrent])


def _stacked(states: Sequence[SequenceState]) -> LayerStates:
    """All rows' tails are merged into bodies of one capacity. Layer by layer, so that no more than
    one layer exists twice."""
    config = states[0].config
    capacity = bucket(max(state.length for state in states), config.max_position_embeddings)
    stacked = LayerStates()
    for layer in range(len(states[0].layers.kv)):
        buffers = KVBuffers(
            _stacked_bodies(states, layer, "keys", capacity),
            _stacked_bodies(states, layer, "values", capacity),
            _empty(states, TAIL),
            _empty(states, TAIL),
        )
        mx.eval(buffers.body_keys, buffers.body_values)
        for state in states:
            state.layers.kv[layer] = buffers  # the row's own is not needed any more
        stacked.kv.append(buffers)
    for name in ("conv_tails", "recurrent"):
        columns = zip(*(getattr(state.layers, name) for state in states), strict=True)
        setattr(stacked, name, [mx.concatenate(list(column)) for column in columns])
    mx.eval(stacked.conv_tails, stacked.recurrent)
    return stacked


def _empty(states: Sequence[SequenceState], capacity: int) -> mx.array:
    config = states[0].config
    shape = (len(states), config.num_key_value_heads, capacity, config.head_dim)
    return mx.zeros(shape, states[0].dtype)


def _stacked_bodies(
    states: Sequence[SequenceState], layer: int, name: str, capacity: int
) -> mx.array:
    """[B, K, capacity, D]: every row's body and, behind it, its tail."""
    whole = _empty(states, capacity)
    for row, state in enumerate(states):
        kv = state.layers.kv[layer]
        parts = (
            (getattr(kv, f"body_{name}"), 0, state.body_length),
            (getattr(kv, f"tail_{name}"), state.body_length, state.tail_length),
        )
        for source, start, length in parts:
            if length:
                at = mx.array([row, start])
                whole = mx.slice_update(whole, source[:, :, :length], at, axes=(0, 2))
    return whole
