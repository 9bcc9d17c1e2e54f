"""The state of one sequence: KV in an immutable body and a small tail, convolution tails, recurrent
matrices.

The body is replaced only when the tail is full, so a decode step copies at most the tail even while
a step still in flight holds its inputs. KV can be cut anywhere; the recurrent part cannot be
rewound and is reused only from a snapshot at exactly the right token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from model.attention import KVBuffers
from model.config import ModelConfig

TAIL = 256


@dataclass(slots=True)
class LayerStates:
    """Per-layer arrays, in layer order: `kv` of the attention layers, the other two of the DeltaNet
    layers.
    """

    kv: list[KVBuffers] = field(default_factory=list)
    conv_tails: list[mx.array] = field(default_factory=list)
    recurrent: list[mx.array] = field(default_factory=list)

    def shared(self) -> LayerStates:
        """The same arrays in lists of their own; arrays never change, so both can go on."""
        kv = [
            KVBuffers(layer.body_keys, layer.body_values, layer.tail_keys, layer.tail_values)
            for layer in self.kv
        ]
        return LayerStates(kv, list(self.conv_tails), list(self.recurrent))

    def moving(self) -> list[list[mx.array]]:
        """What a decode step replaces: tails, convolution tails, recurrent matrices."""
        return [
            [kv.tail_keys for kv in self.kv],
            [kv.tail_values for kv in self.kv],
            self.conv_tails,
            self.recurrent,
        ]

    def bodies(self) -> list[list[mx.array]]:
        """What a decode step only reads."""
        return [[kv.body_keys for kv in self.kv], [kv.body_values for kv in self.kv]]

    @staticmethod
    def join(bodies: list[list[mx.array]], moving: list[list[mx.array]]) -> LayerStates:
        """The inverse of `bodies()` and `moving()`."""
        kv = [
            KVBuffers(*arrays)
            for arrays in zip(bodies[0], bodies[1], moving[0], moving[1], strict=True)
        ]
        return LayerStates(kv, moving[2], moving[3])


@dataclass(frozen=True, slots=True)
class KVSpan:
    """Keys and values [1, K, length, D] of consecutive tokens, per attention layer, in memory of
    their own.
    """

    keys: tuple[mx.array, ...]
    values: tuple[mx.array, ...]
    length: int

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True)
class RecurrentSnapshot:
    """Convolution tails and recurrent matrices after exactly `position` tokens."""

    conv_tails: tuple[mx.array, ...]
    recurrent: tuple[mx.array, ...]
    position: int

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (*self.conv_tails, *self.recurrent))


def bucket(length: int, limit: int) -> int:
    """Capacity of a body that holds `length` tokens: 0, or a power of two or one and a half times
    one, from 256.
    """
    if length == 0:
        return 0
    capacity = 256
    while capacity < length:
        capacity = capacity * 3 // 2 if capacity & (capacity - 1) == 0 else capacity * 4 // 3
    return min(capacity, max(limit, length))


class SequenceState:
    """The state of one sequence (B = 1). `body_length + tail_length` tokens have been fed."""

    def __init__(self, config: ModelConfig, dtype: mx.Dtype):
        self.config = config
        self.dtype = dtype
        self.body_length = 0
        self.tail_length = 0
        self.borrowed = False  # the arrays are views of a larger stack
        channels = (
            2 * config.linear_num_key_heads * config.linear_key_head_dim
            + config.linear_num_value_heads * config.linear_value_head_dim
        )
        attention_layers = sum(kind == "full_attention" for kind in config.layer_types)
        delta_layers = config.num_hidden_layers - attention_layers
        self.layers = LayerStates(
            kv=[
                KVBuffers(self._kv(0), self._kv(0), self._kv(TAIL), self._kv(TAIL))
                for _ in range(attention_layers)
            ],
            conv_tails=[
                mx.zeros((1, config.linear_conv_kernel_dim - 1, channels), dtype)
                for _ in range(delta_layers)
            ],
            recurrent=[
                mx.zeros(
                    (
                        1,
                        config.linear_num_value_heads,
                        config.linear_value_head_dim,
                        config.linear_key_head_dim,
                    ),
                    mx.float32,
                )
                for _ in range(delta_layers)
            ],
        )

    def _kv(self, capacity: int) -> mx.array:
        shape = (1, self.config.num_key_value_heads, capacity, self.config.head_dim)
        return mx.zeros(shape, self.dtype)

    @property
    def length(self) -> int:
        return self.body_length + self.tail_length

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        parts = (*self.layers.bodies(), *self.layers.moving())
        return sum(array.nbytes for part in parts for array in part)

    def fork(self) -> SequenceState:
        """A second sequence that goes on from here."""
        other = SequenceState(self.config, self.dtype)
        other.body_length, other.tail_length = self.body_length, self.tail_length
        other.borrowed = self.borrowed
        other.layers = self.layers.shared()
        return other

    def reserve(self, tokens: int) -> None:
        """Moves the tail into the body and makes room for `tokens` more there."""
        needed = bucket(self.length + tokens, self.config.max_position_embeddings)
        for kv in self.layers.kv:
            kv.body_keys = self._merged(kv.body_keys, kv.tail_keys, needed)
            kv.body_values = self._merged(kv.body_values, kv.tail_values, needed)
        self.body_length, self.tail_length = self.length, 0

    def _merged(self, body: mx.array, tail: mx.array, capacity: int) -> mx.array:
        if body.shape[2] < capacity:
            grown = self._kv(capacity)
            body = mx.slice_update(grown, body, mx.array([0]), axes=(2,)) if body.size else grown
        if self.tail_length:
            filled = tail[:, :, : self.tail_length]
            body = mx.slice_update(body, filled, mx.array([self.body_length]), axes=(2,))
        return body

    def span(self, start: int, end: int) -> KVSpan:
        """KV of tokens [start, end), copied out. Raises FloatingPointError when not finite."""
        keys = [self._sliced(kv.body_keys, kv.tail_keys, start, end) for kv in self.layers.kv]
        values = [self._sliced(kv.body_values, kv.tail_values, start, end) for kv in self.layers.kv]
        _check_finite([*keys, *values])
        return KVSpan(tuple(keys), tuple(values), end - start)

    def _sliced(self, body: mx.array, tail: mx.array, start: int, end: int) -> mx.array:
        split = self.body_length
        in_body = body[:, :, min(start, split) : min(end, split)]
        in_tail = tail[:, :, max(start, split) - split : max(end, split) - split]
        # Concatenation always allocates: the span must not keep the live buffer alive.
        return mx.concatenate([in_body, in_tail], axis=2)

    def recurrent(self) -> RecurrentSnapshot:
        """The part that cannot be rewound, copied out. Raises FloatingPointError if not finite."""
        conv = [mx.contiguous(a + 0) for a in self.layers.conv_tails]
        recurrent = [a + 0 for a in self.layers.recurrent]
        _check_finite([*conv, *recurrent])
        return RecurrentSnapshot(tuple(conv), tuple(recurrent), self.length)

    def restore(self, spans: Sequence[KVSpan], snapshot: RecurrentSnapshot) -> None:
        """Continues from spans ending at the snapshot's position. Only on a fresh state."""
        length = sum(span.length for span in spans)
        if self.length or length != snapshot.position:
            raise ValueError(
                f"cannot restore {length} tokens of KV and a snapshot at {snapshot.position} "
                f"into a state of {self.length} tokens"
            )
        self.reserve(length)
        for layer, kv in enumerate(self.layers.kv):
            for name, parts in (
                ("body_keys", [span.keys[layer] for span in spans]),
                ("body_values", [span.values[layer] for span in spans]),
            ):
                joined = mx.concatenate(parts, axis=2)
                body = mx.slice_update(getattr(kv, name), joined, mx.array([0]), axes=(2,))
                setattr(kv, name, body)
        self.layers.conv_tails = list(snapshot.conv_tails)
        self.layers.recurrent = list(snapshot.recurrent)
        self.body_length = length


def _check_finite(arrays: list[mx.array]) -> None:
    """Evaluates `arrays`; what is not finite must never be kept for later."""
    sums = mx.stack([array.sum().astype(mx.float32) for array in arrays])
    finite = mx.isfinite(sums).all()
    mx.eval(arrays, finite)
    if not finite.item():
        raise FloatingPointError("the state is not finite")
