"""From the joint projection of an attention layer to its queries and its longer tail, for a few
tokens: norms, rotation, and the new keys and values at the places of each row.

Shapes: B sequences, T new tokens, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np

from model.kernels.metal import MAX_TOKENS, Runner, UnsupportedError, run
from model.kernels.qk_norm_rope import launched


def qk_norm_rope_several(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_lengths: mx.array,
    rotary_dims: int,
    base: float,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """A few tokens of each row. Plain operations.

    qkv [B, T, 2·H·D + 2·K·D]: per query head D of query and D of gate, then the keys, then the
    values; q_norm, k_norm [D]; tail_keys, tail_values [B, K, TAIL, D]; token t of row b has the
    place tail_lengths[b] + t (int32 [B]) in the tail, below TAIL, and its position is
    body_lengths[b] (int32 [B]) more; the first `rotary_dims` of D are rotated, in pairs (i, i +
    rotary_dims / 2).

    Returns q [B, H, T, D], gate [B, T, H·D] and the tails with the new keys and values.
    """
    offset = body_lengths + tail_lengths
    q, k, v, gate = normed_and_rotated(
        qkv, q_norm, k_norm, eps, tail_keys.shape[1], offset, rotary_dims, base
    )
    places = tail_lengths[:, None] + count(qkv.shape[1])
    index = mx.broadcast_to(places[:, None, :, None], k.shape)
    tail_keys = mx.put_along_axis(tail_keys, index, k, axis=2)
    tail_values = mx.put_along_axis(tail_values, index, v, axis=2)
    return q, gate, tail_keys, tail_values


def normed_and_rotated(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    kv_heads: int,
    offset: int | mx.array,
    rotary_dims: int,
    base: float,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """qkv as above, its first token at the position `offset` (of all rows, or int32 [B]) -> q
    [B, H, T, D], k and v [B, K, T, D], gate [B, T, H·D]."""
    B, T, D = *qkv.shape[:2], q_norm.shape[0]
    heads = qkv.shape[-1] // (2 * D) - kv_heads
    q, k, v = mx.split(qkv, [2 * heads * D, (2 * heads + kv_heads) * D], axis=-1)
    q, gate = mx.split(q.reshape(B, T, heads, 2 * D), 2, axis=-1)

    def rotated(x: mx.array, norm: mx.array) -> mx.array:
        """[B, T, heads, D] -> [B, heads, T, D], normed and rotated."""
        return mx.fast.rope(
            mx.fast.rms_norm(x, norm, eps).transpose(0, 2, 1, 3),
            rotary_dims,
            traditional=False,
            base=base,
            scale=1.0,
            offset=offset,
        )

    q, k = rotated(q, q_norm), rotated(k.reshape(B, T, kv_heads, D), k_norm)
    v = v.reshape(B, T, kv_heads, D).transpose(0, 2, 1, 3)
    return q, k, v, gate.reshape(B, T, -1)


@cache
def count(length: int) -> mx.array:
    """0, 1, ... as data: a step would count them anew each time."""
    return mx.array(np.arange(length, dtype=np.int32))


def metal_qk_norm_rope_several(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_lengths: mx.array,
    rotary_dims: int,
    base: float,
    *,
    runner: Runner = run,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """`qk_norm_rope_several` in one launch of B·(T·(H + K) + K·TAIL/8) simdgroups. Raises
    UnsupportedError."""
    tokens = qkv.shape[1]
    if not 0 < tokens <= MAX_TOKENS or tail_lengths.ndim != 1:
        raise UnsupportedError(
            f"{tokens} tokens, tail_lengths of shape {tail_lengths.shape}: at most {MAX_TOKENS} "
            "tokens, and a length for each row"
        )
    norms, tails = (q_norm, k_norm, eps), (tail_keys, tail_values)
    return launched(qkv, norms, tails, (body_lengths, tail_lengths), rotary_dims, base, runner)
