"""Gated full attention: grouped queries, partial RoPE, an output gate per head.

Decode attends over a body (immutable, masked by its length) and a small tail in one softmax, so
that no step copies the KV cache (docs/architecture.md); its parts are in model/kernels. Formulas:
Qwen3.5-MoE as in transformers' `modeling_qwen3_5_moe`.

Shapes: B sequences, T new tokens, H query heads, K key/value heads, G = H / K, D head size, C body
capacity.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from model.config import ModelConfig
from model.kernels import Kernels
from model.kernels.qk_norm_rope_several import normed_and_rotated
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
        self.kv_heads = config.num_key_value_heads
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
        q, k, v, gate = normed_and_rotated(
            self.qkv_proj(x),
            self.q_norm,
            self.k_norm,
            self.eps,
            self.kv_heads,
            length,
            self.rotary_dims,
            self.rope_theta,
        )
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
        self,
        x: mx.array,
        kv: KVBuffers,
        body_lengths: mx.array,
        tail_lengths: mx.array,
        kernels: Kernels,
    ) -> tuple[mx.array, KVBuffers]:
        """A few tokens of each row, x [B, T, hidden], written into the tails; `body_lengths` and
        `tail_lengths` int32 [B], so each row has a tail length of its own.
        """
        q, gate, tail_keys, tail_values = kernels.qk_norm_rope_several(
            self.qkv_proj(x),
            self.q_norm,
            self.k_norm,
            self.eps,
            kv.tail_keys,
            kv.tail_values,
            body_lengths,
            tail_lengths,
            self.rotary_dims,
            self.rope_theta,
        )
        attended = kernels.decode_attention_several(
            q,
            kv.body_keys,
            kv.body_values,
            tail_keys,
            tail_values,
            body_lengths,
            tail_lengths,
            self.scale,
            gate,
        )
        buffers = KVBuffers(kv.body_keys, kv.body_values, tail_keys, tail_values)
        return self.o_proj(attended), buffers
