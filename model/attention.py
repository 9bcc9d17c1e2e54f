"""Gated full attention: grouped queries, partial RoPE, an output gate per head.

Decode attends over a body (immutable, masked by its length) and a small tail in one softmax, so
that no step copies the KV cache (docs/architecture.md). Formulas: Qwen3.5-MoE as in transformers'
`modeling_qwen3_5_moe`.

Shapes: B sequences, T new tokens, H query heads, K key/value heads, G = H / K, D head size, C body
capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from model.config import ModelConfig
from model.quantized import AnyLinear, ArraySource, linear


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
        self.q_proj: AnyLinear = linear(source, f"{path}.q_proj")
        self.k_proj: AnyLinear = linear(source, f"{path}.k_proj")
        self.v_proj: AnyLinear = linear(source, f"{path}.v_proj")
        self.o_proj: AnyLinear = linear(source, f"{path}.o_proj")
        self.q_norm = source.arrays[f"{path}.q_norm.weight"]
        self.k_norm = source.arrays[f"{path}.k_norm.weight"]

    def _rope(self, x: mx.array, offset: mx.array | int) -> mx.array:
        return mx.fast.rope(
            x,
            self.rotary_dims,
            traditional=False,
            base=self.rope_theta,
            scale=1.0,
            offset=offset,
        )

    def _project(
        self, x: mx.array, offset: mx.array | int
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """x [B, T, hidden] -> q [B, H, T, D], k and v [B, K, T, D], gate [B, T, H·D]."""
        B, T, _ = x.shape
        q, gate = mx.split(self.q_proj(x).reshape(B, T, self.heads, 2 * self.head_dim), 2, axis=-1)
        k = self.k_proj(x).reshape(B, T, self.kv_heads, self.head_dim)
        v = self.v_proj(x).reshape(B, T, self.kv_heads, self.head_dim)
        q = mx.fast.rms_norm(q, self.q_norm, self.eps).transpose(0, 2, 1, 3)
        k = mx.fast.rms_norm(k, self.k_norm, self.eps).transpose(0, 2, 1, 3)
        q, k = self._rope(q, offset), self._rope(k, offset)
        return q, k, v.transpose(0, 2, 1, 3), gate.reshape(B, T, -1)

    def _output(self, attended: mx.array, gate: mx.array) -> mx.array:
        """attended [B, H, T, D], gate [B, T, H·D] -> [B, T, hidden]."""
        B, _, T, _ = attended.shape
        attended = attended.transpose(0, 2, 1, 3).reshape(B, T, -1)
        return self.o_proj(attended * mx.sigmoid(gate))

    def prefill(self, x: mx.array, kv: KVBuffers, length: int) -> tuple[mx.array, KVBuffers]:
        """A chunk x [B, T, hidden] after `length` tokens that all lie in the body, whose capacity
        holds T more.

        Returns the layer's output [B, T, hidden] and the buffers with the chunk written into the
        body.
        """
        T = x.shape[1]
        q, k, v, gate = self._project(x, length)
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
        return self._output(attended, gate), KVBuffers(keys, values, kv.tail_keys, kv.tail_values)

    def step(
        self, x: mx.array, kv: KVBuffers, body_lengths: mx.array, tail_length: mx.array
    ) -> tuple[mx.array, KVBuffers]:
        """One token of each row x [B, 1, hidden]. `body_lengths` int32 [B] and `tail_length`, an
        int32 scalar, are arrays: mx.compile would bake an int into the graph.
        """
        B = x.shape[0]
        q, k, v, gate = self._project(x, body_lengths + tail_length)
        start = tail_length.reshape(1)
        tail_keys = mx.slice_update(kv.tail_keys, k, start, axes=(2,))
        tail_values = mx.slice_update(kv.tail_values, v, start, axes=(2,))

        grouped = (q * self.scale).reshape(B, self.kv_heads, -1, self.head_dim)  # [B, K, G, D]
        scores = [_masked_scores(grouped, tail_keys, tail_length + 1)]
        capacity = kv.body_keys.shape[2]
        if capacity:
            lengths = body_lengths[:, None, None, None]
            scores.insert(0, _masked_scores(grouped, kv.body_keys, lengths))
        weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True)
        weights = weights.astype(x.dtype)
        attended = weights[..., capacity:] @ tail_values
        if capacity:
            attended = attended + weights[..., :capacity] @ kv.body_values
        attended = attended.reshape(B, self.heads, 1, self.head_dim)
        buffers = KVBuffers(kv.body_keys, kv.body_values, tail_keys, tail_values)
        return self._output(attended, gate), buffers


def _masked_scores(queries: mx.array, keys: mx.array, length: mx.array) -> mx.array:
    """queries [B, K, G, D] · keys [B, K, N, D] -> [B, K, G, N], -inf at and past `length`, a
    scalar or [B, 1, 1, 1].
    """
    scores = queries @ keys.swapaxes(-1, -2)
    return mx.where(mx.arange(keys.shape[2]) < length, scores, -mx.inf)
