"""Gated DeltaNet: the linear-attention mixer of 30 of the 40 layers.

A sequence carries, per layer, the last `kernel - 1` inputs of a short depthwise convolution and one
matrix per value head, kept in float32. Formulas: Yang et al., "Gated Delta Networks" (2024), as in
transformers' `modeling_qwen3_5_moe`.

Shapes: B sequences, T new tokens, Hk key heads, Hv value heads, Dk and Dv their sizes, W
convolution width.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.config import ModelConfig
from model.delta_rule import DeltaRule
from model.quantized import AnyLinear, ArraySource, linear


class DeltaNet:
    """One Gated DeltaNet layer."""

    def __init__(self, config: ModelConfig, source: ArraySource, path: str, delta_rule: DeltaRule):
        self.key_heads = config.linear_num_key_heads
        self.value_heads = config.linear_num_value_heads
        self.key_dim = config.linear_key_head_dim
        self.value_dim = config.linear_value_head_dim
        self.width = config.linear_conv_kernel_dim
        self.eps = config.rms_norm_eps
        self.delta_rule = delta_rule
        self.in_proj_qkv: AnyLinear = linear(source, f"{path}.in_proj_qkv")
        self.in_proj_z: AnyLinear = linear(source, f"{path}.in_proj_z")
        self.in_proj_b: AnyLinear = linear(source, f"{path}.in_proj_b")
        self.in_proj_a: AnyLinear = linear(source, f"{path}.in_proj_a")
        self.out_proj: AnyLinear = linear(source, f"{path}.out_proj")
        # [channels, W, 1] -> [W, channels]: the convolution is W shifted multiply-adds.
        self.conv_taps = source.arrays[f"{path}.conv1d.weight"].squeeze(-1).T
        self.decay_rate = mx.exp(source.arrays[f"{path}.A_log"].astype(mx.float32))
        self.dt_bias = source.arrays[f"{path}.dt_bias"].astype(mx.float32)
        self.norm = source.arrays[f"{path}.norm.weight"]
        mx.eval(self.conv_taps, self.decay_rate)

    def __call__(
        self, x: mx.array, conv_tail: mx.array, recurrent: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """x [B, T, hidden], conv_tail [B, W-1, channels], recurrent [B, Hv, Dv, Dk] float32 ->
        output and new states.
        """
        B, T, _ = x.shape
        mixed = mx.concatenate([conv_tail, self.in_proj_qkv(x)], axis=1)
        conv_tail = mixed[:, T:]
        convolved = mixed[:, :T] * self.conv_taps[0]
        for i in range(1, self.width):
            convolved = convolved + mixed[:, i : i + T] * self.conv_taps[i]
        convolved = silu(convolved)
        keys_end = self.key_heads * self.key_dim
        q, k, v = mx.split(convolved, [keys_end, 2 * keys_end], axis=-1)
        q = _unit(q.reshape(B, T, self.key_heads, self.key_dim)) * self.key_dim**-0.5
        k = _unit(k.reshape(B, T, self.key_heads, self.key_dim))
        v = v.reshape(B, T, self.value_heads, self.value_dim).astype(mx.float32)

        beta = mx.sigmoid(self.in_proj_b(x).astype(mx.float32))
        rate = _softplus(self.in_proj_a(x).astype(mx.float32) + self.dt_bias)
        log_decay = -self.decay_rate * rate  # [B, T, Hv]
        out, recurrent = self.delta_rule(q, k, v, log_decay, beta, recurrent)

        z = self.in_proj_z(x).reshape(B, T, self.value_heads, self.value_dim)
        out = mx.fast.rms_norm(out, self.norm.astype(mx.float32), self.eps)
        out = (out * silu(z.astype(mx.float32))).astype(x.dtype)
        return self.out_proj(out.reshape(B, T, -1)), conv_tail, recurrent


def _unit(x: mx.array) -> mx.array:
    """L2 norm over the head, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def _softplus(x: mx.array) -> mx.array:
    return mx.logaddexp(x, 0.0)
