"""Everything between the projections of a Gated DeltaNet layer, for one token: convolution and its
tail, SiLU, norms, gates, the delta rule and the gated output norm.

Shapes: B sequences, Hk key heads, Hv value heads, Dk and Dv their sizes, W convolution width, C =
2·Hk·Dk + Hv·Dv channels of the convolution.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.delta_rule import DeltaRule, recurrent_step
from model.kernels.delta_step_kernel import KERNELS, SEVERAL
from model.kernels.metal import (
    MAX_THREADS,
    SIMD,
    Launch,
    Runner,
    UnsupportedError,
    run,
)
from model.quantized import AnyLinear, Linear, SeparateLinears

MAX_HEAD = 512  # a lane keeps at most 16 columns of a head in registers
MAX_SHARED = 32768  # bytes of threadgroup memory
ROWS = 4  # of the matrix for each simdgroup, where there may be so many of them


def delta_step(
    qkvz: mx.array,
    x: mx.array,
    in_proj_ab: AnyLinear | SeparateLinears,
    conv_tail: mx.array,
    taps: mx.array,
    decay_rate: mx.array,
    dt_bias: mx.array,
    norm: mx.array,
    eps: float,
    recurrent: mx.array,
    key_heads: int,
    value_heads: int,
    *,
    rule: DeltaRule = recurrent_step,
) -> tuple[mx.array, mx.array, mx.array]:
    """One token of each row. Plain operations, or with mlx's own `rule` for the recurrence.

    qkvz [B, 1, C + Hv·Dv]: queries, keys, values and output gate, in the activation dtype;
    x [B, 1, H]: the layer's input, from which in_proj_ab [H] -> [2·Hv] makes what the decay and
    then what the write strength of each head is computed from; conv_tail [B, W-1, C]: the last
    inputs of the convolution; taps [W, C]; decay_rate, dt_bias [Hv] float32; norm [Dv];
    recurrent [B, Hv, Dv, Dk] float32.

    Returns the gated output [B, 1, Hv·Dv], the new conv_tail and the new recurrent.
    """
    B = qkvz.shape[0]
    channels = conv_tail.shape[-1]
    value_dim, key_dim = recurrent.shape[2:]
    inputs, z = mx.split(qkvz, [channels], axis=-1)
    mixed = mx.concatenate([conv_tail, inputs], axis=1)
    convolved = (mixed * taps).sum(axis=1, keepdims=True)
    qk, v = mx.split(silu(convolved), [2 * key_heads * key_dim], axis=-1)
    q, k = mx.split(_unit(qk.reshape(B, 1, 2 * key_heads, key_dim)), 2, axis=2)
    q = q * key_dim**-0.5
    v = v.reshape(B, 1, value_heads, value_dim).astype(mx.float32)
    a, b = mx.split(in_proj_ab(x), 2, axis=-1)
    beta = mx.sigmoid(b.astype(mx.float32))
    log_decay = -decay_rate * mx.logaddexp(a.astype(mx.float32) + dt_bias, 0.0)
    out, recurrent = rule(q, k, v, log_decay, beta, recurrent)
    out = mx.fast.rms_norm(out, norm.astype(mx.float32), eps)
    z = z.reshape(B, 1, value_heads, value_dim).astype(mx.float32)
    out = (out * silu(z)).astype(qkvz.dtype)
    return out.reshape(B, 1, -1), mixed[:, 1:], recurrent


def _unit(x: mx.array) -> mx.array:
    """L2 norm over the head, in float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt((x * x).sum(axis=-1, keepdims=True) + 1e-6)


def metal_delta_step(
    qkvz: mx.array,
    x: mx.array,
    in_proj_ab: AnyLinear | SeparateLinears,
    conv_tail: mx.array,
    taps: mx.array,
    decay_rate: mx.array,
    dt_bias: mx.array,
    norm: mx.array,
    eps: float,
    recurrent: mx.array,
    key_heads: int,
    value_heads: int,
    *,
    most_simdgroups: int = MAX_THREADS // SIMD,
    runner: Runner = run,
) -> tuple[mx.array, mx.array, mx.array]:
    """`delta_step` in one launch of B·Hv threadgroups, each of up to `most_simdgroups` simdgroups;
    a packed in_proj_ab is a launch before it. Raises UnsupportedError.
    """
    states = conv_tail, recurrent
    weights = in_proj_ab, taps, decay_rate, dt_bias, norm, eps
    heads = key_heads, value_heads
    return launched(qkvz, x, None, states, weights, heads, most_simdgroups, runner)


def launched(
    qkvz: mx.array,
    x: mx.array,
    last: mx.array | None,
    states: tuple[mx.array, mx.array],
    weights: tuple[AnyLinear | SeparateLinears, mx.array, mx.array, mx.array, mx.array, float],
    heads: tuple[int, int],
    most_simdgroups: int,
    runner: Runner,
) -> tuple[mx.array, mx.array, mx.array]:
    """The kernel of one token, or, with `last`, of several: their arguments. Raises
    UnsupportedError."""
    (conv_tail, recurrent), (key_heads, value_heads) = states, heads
    in_proj_ab, taps, decay_rate, dt_bias, norm, eps = weights
    B, tokens = qkvz.shape[:2]
    value_dim, key_dim = recurrent.shape[-2:]
    width = taps.shape[0]
    if conv_tail.dtype != qkvz.dtype or recurrent.dtype != mx.float32:
        raise UnsupportedError(
            f"conv_tail of {conv_tail.dtype} and recurrent of {recurrent.dtype}: expected "
            f"{qkvz.dtype} and {mx.float32}"
        )
    if width < 2 or value_heads % key_heads or not 0 < max(key_dim, value_dim) <= MAX_HEAD:
        raise UnsupportedError(
            f"width {width}, {key_heads} key heads of {key_dim}, {value_heads} value heads of "
            f"{value_dim}: width at least 2, value heads a multiple of key heads, at most "
            f"{MAX_HEAD} wide"
        )
    simdgroups = min(most_simdgroups, -(-value_dim // ROWS))
    shared = 4 * tokens * (2 * (key_dim + value_dim) + 2 * simdgroups)
    if shared > MAX_SHARED:
        raise UnsupportedError(f"{shared} bytes of threadgroup memory: at most {MAX_SHARED}")
    if isinstance(in_proj_ab, Linear):
        gates, source = (x, in_proj_ab.weight), "computed"
    else:
        gates, source = (in_proj_ab(x),), "given"
    kernels, picked, places, after = KERNELS, (), (), ()
    if last is not None:
        kernels, picked = SEVERAL, (last,)
        places, after = (("PLACES", recurrent.shape[1]),), (tokens,)
    out, new_tail, new_recurrent = runner(
        Launch(
            kernels[source],
            inputs=(
                qkvz,
                *gates,
                *picked,
                conv_tail,
                taps,
                decay_rate,
                dt_bias,
                norm,
                eps,
                recurrent,
            ),
            template=(
                ("T", qkvz.dtype),
                ("W", width),
                ("HK", key_heads),
                ("HV", value_heads),
                ("DK", key_dim),
                ("DV", value_dim),
                ("SIMDGROUPS", simdgroups),
                ("HIDDEN", x.shape[-1]),
                ("TOKENS", tokens),
                *places,
            ),
            grid=(simdgroups * SIMD, value_heads, B),
            threadgroup=(simdgroups * SIMD, 1, 1),
            outputs=(
                ((B, tokens, value_heads * value_dim), qkvz.dtype),
                ((B, *after, *conv_tail.shape[-2:]), conv_tail.dtype),
                ((B, *after, *recurrent.shape[-3:]), mx.float32),
            ),
        )
    )
    return out, new_tail, new_recurrent
