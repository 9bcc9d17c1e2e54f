"""A Gated DeltaNet layer between its projections, for a few tokens of each row, one after another:
what `delta_step` does for one, from the state that counts of those kept before, and with the state
after every token.

Shapes: B sequences, T new tokens, P places kept before, Hk key heads, Hv value heads, Dk and Dv
their sizes, W convolution width, C = 2·Hk·Dk + Hv·Dv channels of the convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import mlx.core as mx
import numpy as np

from model.kernels.delta_step import delta_step, launched
from model.kernels.metal import MAX_THREADS, MAX_TOKENS, SIMD, Runner, UnsupportedError, run
from model.quantized import AnyLinear, SeparateLinears

OneStep = Callable[..., tuple[mx.array, mx.array, mx.array]]


def delta_step_several(
    qkvz: mx.array,
    x: mx.array,
    in_proj_ab: AnyLinear | SeparateLinears,
    last: mx.array,
    conv_tails: mx.array,
    taps: mx.array,
    decay_rate: mx.array,
    dt_bias: mx.array,
    norm: mx.array,
    eps: float,
    recurrent: mx.array,
    key_heads: int,
    value_heads: int,
    *,
    one: OneStep = delta_step,
) -> tuple[mx.array, mx.array, mx.array]:
    """A few tokens of each row, each by `one`, a form of delta_step. Plain operations.

    qkvz [B, T, C + Hv·Dv] and x [B, T, H]; conv_tails [B, P, W-1, C] and recurrent [B, P, Hv, Dv,
    Dk] float32: the states kept after each place of the step before; last int32 [B]: the place of
    each row that counts, below P; where there is one place only it is that one, whatever `last`
    says. The rest as in `delta_step`.

    Returns the gated output [B, T, Hv·Dv], and conv_tails [B, T, W-1, C] and recurrent [B, T, Hv,
    Dv, Dk] after each of the tokens.
    """
    conv_tail, matrix = _at(conv_tails, last), _at(recurrent, last)
    found: list[tuple[mx.array, mx.array, mx.array]] = []
    for t in range(qkvz.shape[1]):
        out, conv_tail, matrix = one(
            qkvz[:, t : t + 1],
            x[:, t : t + 1],
            in_proj_ab,
            conv_tail,
            taps,
            decay_rate,
            dt_bias,
            norm,
            eps,
            matrix,
            key_heads,
            value_heads,
        )
        found.append((out, conv_tail, matrix))
    outputs, tails, matrices = (list(part) for part in zip(*found, strict=True))
    return mx.concatenate(outputs, axis=1), mx.stack(tails, axis=1), mx.stack(matrices, axis=1)


def _at(kept: mx.array, last: mx.array) -> mx.array:
    """Row b of kept [B, P, ...] at the place last[b]."""
    rows, places = kept.shape[:2]
    if places == 1:
        return kept[:, 0]
    return kept.flatten(0, 1)[_firsts(rows, places) + last]


@cache
def _firsts(rows: int, places: int) -> mx.array:
    """Where the places of each row begin, as data: a step would count them anew each time."""
    return mx.array(np.arange(rows, dtype=np.int32) * places)


def metal_delta_step_several(
    qkvz: mx.array,
    x: mx.array,
    in_proj_ab: AnyLinear | SeparateLinears,
    last: mx.array,
    conv_tails: mx.array,
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
    """`delta_step_several` in one launch of B·Hv threadgroups, each of up to `most_simdgroups`
    simdgroups; a packed in_proj_ab is a launch before it. Raises UnsupportedError.
    """
    if not 0 < qkvz.shape[1] <= MAX_TOKENS:
        raise UnsupportedError(f"{qkvz.shape[1]} tokens: at most {MAX_TOKENS}")
    states = conv_tails, recurrent
    weights = in_proj_ab, taps, decay_rate, dt_bias, norm, eps
    heads = key_heads, value_heads
    return launched(qkvz, x, last, states, weights, heads, most_simdgroups, runner)
