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
from model.kernels import Kernels
from model.quantized import ArraySource, linear, linears


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
        part = f"{path}.in_proj"
        self.in_proj_qkvz = linears(source, f"{part}_qkvz", f"{part}_qkv", f"{part}_z")
        self.in_proj_ab = linears(source, f"{part}_ab", f"{part}_a", f"{part}_b")
        self.out_proj = linear(source, f"{path}.out_proj")
        # [channels, W, 1] -> [W, channels]: the convolution is W shifted multiply-adds. Lying so in
        # memory, or a kernel that wants rows would copy them in every step.
        self.conv_taps = mx.contiguous(source.arrays[f"{path}.conv1d.weight"].squeeze(-1).T)
        self.decay_rate = mx.exp(source.arrays[f"{path}.A_log"].astype(mx.float32))
        self.dt_bias = source.arrays[f"{path}.dt_bias"].astype(mx.float32)
        self.norm = source.arrays[f"{path}.norm.weight"]
        mx.eval(self.conv_taps, self.decay_rate)

    def step(
        self, x: mx.array, conv_tail: mx.array, recurrent: mx.array, kernels: Kernels
    ) -> tuple[mx.array, mx.array, mx.array]:
        """One token of each row: x [B, 1, hidden]; the rest as in prefill()."""
        out, conv_tail, recurrent = kernels.delta_step(
            self.in_proj_qkvz(x),
            x,
            self.in_proj_ab,
            conv_tail,
            self.conv_taps,
            self.decay_rate,
            self.dt_bias,
            self.norm,
            self.eps,
            recurrent,
            self.key_heads,
            self.value_heads,
        )
        return self.out_proj(out), conv_tail, recurrent

    def several(
        self,
        x: mx.array,
        conv_tails: mx.array,
        recurrent: mx.array,
        last: mx.array,
        kernels: Kernels,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """A few tokens of each row, x [B, T, hidden], one after the other, from the states after
        the place `last` int32 [B] of those that were kept, conv_tails [B, P, W-1, channels] and
        recurrent [B, P, Hv, Dv, Dk] -> output, and the states after each of the tokens.
        """
        out, conv_tails, recurrent = kernels.delta_step_several(
            self.in_proj_qkvz(x),
            x,
            self.in_proj_ab,
            last,
            conv_tails,
            self.conv_taps,
            self.decay_rate,
            self.dt_bias,
            self.norm,
            self.eps,
            recurrent,
            self.key_heads,
            self.value_heads,
        )
        return self.out_proj(out), conv_tails, recurrent

    def prefill(
        self, x: mx.array, conv_tail: mx.array, recurrent: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """x [B, T, hidden], conv_tail [B, W-1, channels], recurrent [B, Hv, Dv, Dk] float32 ->
        output and new states.
        """
        B, T, _ = x.shape
        qkv, z = mx.split(self.in_proj_qkvz(x), [conv_tail.shape[-1]], axis=-1)
        mixed = mx.concatenate([conv_tail, qkv], axis=1)
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

        a, b = mx.split(self.in_proj_ab(x), 2, axis=-1)
        beta = mx.sigmoid(b.astype(mx.float32))
        rate = _softplus(a.astype(mx.float32) + self.dt_bias)
        log_decay = -self.decay_rate * rate  # [B, T, Hv]
        out, recurrent = self.delta_rule(q, k, v, log_decay, beta, recurrent)

        z = z.reshape(B, T, self.value_heads, self.value_dim)
        out = mx.fast.rms_norm(out, self.norm.astype(mx.float32), self.eps)
        out = (out * silu(z.astype(mx.float32))).astype(x.dtype)
        return self.out_proj(out.reshape(B, T, -1)), conv_tail, recurrent


def _unit(x: mx.array) -> mx.array:
    """L2 norm over the head, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def _softplus(x: mx.array) -> mx.array:
    return mx.logaddexp(x, 0.0)
