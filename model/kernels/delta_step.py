"""Everything between the projections of a Gated DeltaNet layer, for one token: convolution and its
tail, SiLU, norms, gates, the delta rule and the gated output norm.

Shapes: B sequences, Hk key heads, Hv value heads, Dk and Dv their sizes, W convolution width, C =
2·Hk·Dk + Hv·Dv channels of the convolution.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.delta_rule import recurrent_step


def delta_step(
    qkvz: mx.array,
    a: mx.array,
    b: mx.array,
    conv_tail: mx.array,
    taps: mx.array,
    decay_rate: mx.array,
    dt_bias: mx.array,
    norm: mx.array,
    eps: float,
    recurrent: mx.array,
    key_heads: int,
    value_heads: int,
) -> tuple[mx.array, mx.array, mx.array]:
    """One token of each row. Plain operations.

    qkvz [B, 1, C + Hv·Dv]: queries, keys, values and output gate, in the activation dtype;
    a, b [B, 1, Hv]: what decay and write strength are computed from; conv_tail [B, W-1, C]: the
    last inputs of the convolution; taps [W, C]; decay_rate, dt_bias [Hv] float32; norm [Dv];
    recurrent [B, Hv, Dv, Dk] float32.

    Returns the gated output [B, 1, Hv·Dv], the new conv_tail and the new recurrent.
    """
    B = qkvz.shape[0]
    channels = conv_tail.shape[-1]
    width = taps.shape[0]
    value_dim, key_dim = recurrent.shape[2:]
    keys_end = key_heads * key_dim
    inputs, z = mx.split(qkvz, [channels], axis=-1)
    mixed = mx.concatenate([conv_tail, inputs], axis=1)
    convolved = mixed[:, :1] * taps[0]
    for i in range(1, width):
        convolved = convolved + mixed[:, i : i + 1] * taps[i]
    q, k, v = mx.split(silu(convolved), [keys_end, 2 * keys_end], axis=-1)
    q = _unit(q.reshape(B, 1, key_heads, key_dim)) * key_dim**-0.5
    k = _unit(k.reshape(B, 1, key_heads, key_dim))
    v = v.reshape(B, 1, value_heads, value_dim).astype(mx.float32)
    beta = mx.sigmoid(b.astype(mx.float32))
    log_decay = -decay_rate * mx.logaddexp(a.astype(mx.float32) + dt_bias, 0.0)
    out, recurrent = recurrent_step(q, k, v, log_decay, beta, recurrent)
    out = mx.fast.rms_norm(out, norm.astype(mx.float32), eps)
    z = z.reshape(B, 1, value_heads, value_dim).astype(mx.float32)
    out = (out * silu(z)).astype(qkvz.dtype)
    return out.reshape(B, 1, -1), mixed[:, 1:], recurrent


def _unit(x: mx.array) -> mx.array:
    """L2 norm over the head, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)
