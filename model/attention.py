"""Gated full attention: grouped queries, partial RoPE, an output gate per head.

Decode attends over a body (immutable, masked by its length) and a small tail in one softmax, so
that no step copies the KV cache (docs/architecture.md); its parts are in model/kernels. Formulas:
Qwen3.5-MoE as in transformers' `modeling_qwen3_5_moe`.

Shapes: B sequences, T new tokens, H query heads, K key/value heads, G = H / K, D head size, C body
capacity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np

from model.config import ModelConfig
from model.kernels import Kernels
from model.quantized import ArraySource, linear, linears


@dataclass(slots=True)
class KVBuffers:
    """Keys and values of one layer: body [B, K, C, D] and tail [B, K, TAIL, D]; lengths are kept by
    the state.
    """

    body_keys: mx.array
    body_values: mx.array
    tail_keys: mx.array
    tail_values: mx.array


class Attention:
    """One attention layer."""

    def __init__(self, config: ModelConfig, source: ArraySource, path: str):
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.rotary_dims = config.rotary_dims
        self.rope_theta = config.rope_theta
        self.eps = config.rms_norm_eps
        parts = [f"{path}.{part}_proj" for part in "qkv"]
        self.qkv_proj = linears(source, f"{path}.qkv_proj", *parts)
        self.o_proj = linear(source, f"{path}.o_proj")
        self.q_norm = source.arrays[f"{path}.q_norm.weight"]
        self.k_norm = source.arrays[f"{path}.k_norm.weight"]

    def prefill(self, x: mx.array, kv: KVBuffers, length: int) -> tuple[mx.array, KVBuffers]:
        """A chunk x [B, T, hidden] after `length` tokens that all lie in the body, whose capacity
        holds T more.

        Returns the layer's output [B, T, hidden] and the buffers with the chunk written into the
        body.
        """
        B, T, _ = x.shape
        q, k, v, gate = self._projected(x, length)
        start = mx.array([length])
        keys = mx.slice_update(kv.body_keys, k, start, axes=(2,))
        values = mx.slice_update(kv.body_values, v, start, axes=(2,))
        attended = mx.fast.scaled_dot_product_attention(
            q,
            keys[:, :, : length + T],
            values[:, :, : length + T],
            scale=self.scale,
            mask="causal" if T > 1 else None,
        )
        attended = attended.transpose(0, 2, 1, 3).reshape(B, T, -1)
        buffers = KVBuffers(keys, values, kv.tail_keys, kv.tail_values)
        return self.o_proj(attended * mx.sigmoid(gate)), buffers

    def step(
        self,
        x: mx.array,
        kv: KVBuffers,
        body_lengths: mx.array,
        tail_length: mx.array,
        kernels: Kernels,
    ) -> tuple[mx.array, KVBuffers]:
        """One token of each row x [B, 1, hidden]. `body_lengths` int32 [B] and `tail_length`, an
        int32 scalar, are arrays: mx.compile would bake an int into the graph.
        """
        q, gate, tail_keys, tail_values = kernels.qk_norm_rope(
            self.qkv_proj(x),
            self.q_norm,
            self.k_norm,
            self.eps,
            kv.tail_keys,
            kv.tail_values,
            body_lengths,
            tail_length,
            self.rotary_dims,
            self.rope_theta,
        )
        attended = kernels.decode_attention(
            q,
            kv.body_keys,
            kv.body_values,
            tail_keys,
            tail_values,
            body_lengths,
            tail_length + 1,
            self.scale,
            gate,
        )
        buffers = KVBuffers(kv.body_keys, kv.body_values, tail_keys, tail_values)
        return self.o_proj(attended), buffers

    def several(
        self, x: mx.array, kv: KVBuffers, body_lengths: mx.array, tail_lengths: mx.array
    ) -> tuple[mx.array, KVBuffers]:
        """A few tokens of each row, x [B, T, hidden], written into the tails; `body_lengths` and
        `tail_lengths` int32 [B], so each row has a tail length of its own. Plain operations.
        """
        B, T, _ = x.shape
        D, capacity = self.head_dim, kv.body_keys.shape[2]
        q, k, v, gate = self._projected(x, body_lengths + tail_lengths)
        ends = tail_lengths[:, None] + _count(T)
        tail_keys, tail_values = (_written(t, new, ends) for t, new in _pairs(kv, k, v))
        grouped = (q * self.scale).reshape(B, self.kv_heads, -1, D)  # G queries by T tokens
        shape = (B, self.kv_heads, self.heads // self.kv_heads, T, -1)
        # Token t sees the tail up to itself.
        seen = _count(tail_keys.shape[2]) <= ends[:, None, None, :, None]
        scores = [_scores(grouped, tail_keys, shape, seen)]
        if capacity:
            seen = _count(capacity) < body_lengths[:, None, None, None, None]
            scores.insert(0, _scores(grouped, kv.body_keys, shape, seen))
        weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True)
        weights = weights.astype(q.dtype).reshape(B, self.kv_heads, grouped.shape[2], -1)
        attended = weights[..., capacity:] @ tail_values
        if capacity:
            attended = attended + weights[..., :capacity] @ kv.body_values
        attended = attended.reshape(B, self.heads, T, D).transpose(0, 2, 1, 3).reshape(B, T, -1)
        buffers = KVBuffers(kv.body_keys, kv.body_values, tail_keys, tail_values)
        return self.o_proj(attended * mx.sigmoid(gate)), buffers

    def _projected(
        self, x: mx.array, offset: int | mx.array
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """x [B, T, hidden] -> q [B, H, T, D], k and v [B, K, T, D], gate [B, T, H·D]."""
        B, T, _ = x.shape
        D, queries = self.head_dim, 2 * self.heads * self.head_dim
        ends = [queries, queries + self.kv_heads * D]
        q, k, v = mx.split(self.qkv_proj(x), ends, axis=-1)
        q, gate = mx.split(q.reshape(B, T, self.heads, 2 * D), 2, axis=-1)
        q = self._rotated(q, self.q_norm, offset)
        k = self._rotated(k.reshape(B, T, self.kv_heads, D), self.k_norm, offset)
        v = v.reshape(B, T, self.kv_heads, D).transpose(0, 2, 1, 3)
        return q, k, v, gate.reshape(B, T, -1)

    def _rotated(self, x: mx.array, norm: mx.array, offset: int | mx.array) -> mx.array:
        """[B, T, heads, D] -> [B, heads, T, D], normed and rotated."""
        return mx.fast.rope(
            mx.fast.rms_norm(x, norm, self.eps).transpose(0, 2, 1, 3),
            self.rotary_dims,
            traditional=False,
            base=self.rope_theta,
            scale=1.0,
            offset=offset,
        )


def _pairs(kv: KVBuffers, k: mx.array, v: mx.array) -> tuple[tuple[mx.array, mx.array], ...]:
    return (kv.tail_keys, k), (kv.tail_values, v)


def _written(tail: mx.array, new: mx.array, places: mx.array) -> mx.array:
    """tail [B, K, TAIL, D] with new [B, K, T, D] at the places [B, T] of each row."""
    index = mx.broadcast_to(places[:, None, :, None], new.shape)
    return mx.put_along_axis(tail, index, new, axis=2)


def _scores(queries: mx.array, keys: mx.array, shape: tuple[int, ...], seen: mx.array) -> mx.array:
    """queries [B, K, G·T, D] · keys [B, K, N, D] as `shape` [B, K, G, T, N], -inf where not
    `seen`."""
    return mx.where(seen, (queries @ keys.swapaxes(-1, -2)).reshape(shape), -mx.inf)


@cache
def _count(length: int) -> mx.array:
    """0, 1, ... as data: a step would count them anew each time."""
    return mx.array(np.arange(length, dtype=np.int32))
