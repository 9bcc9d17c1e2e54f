"""From the joint projection of an attention layer to its queries and its longer tail, for one
token: norms, rotation, and the new key and value at their place.

Shapes: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from math import log2

import mlx.core as mx

from model.kernels.metal import SIMD, Launch, Runner, UnsupportedError, run
from model.kernels.qk_norm_rope_kernel import ONE, SEVERAL

MAX_HEAD = 4096  # of float32 in threadgroup memory: 16 KiB
COPIED = 8  # places of a tail that one simdgroup copies


def qk_norm_rope(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_length: mx.array,
    rotary_dims: int,
    base: float,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """One token of each row. Plain operations.

    qkv [B, 1, 2·H·D + 2·K·D]: per query head D of query and D of gate, then the keys, then the
    values; q_norm, k_norm [D]; tail_keys, tail_values [B, K, TAIL, D]; the new token's place in the
    tail is tail_length (an int32 scalar, below TAIL), and its position body_lengths (int32 [B])
    more; the first `rotary_dims` of D are rotated, in pairs (i, i + rotary_dims / 2).

    Returns q [B, H, 1, D], gate [B, 1, H·D] and the tails with the new key and value.
    """
    B, D = qkv.shape[0], q_norm.shape[0]
    kv_heads = tail_keys.shape[1]
    heads = qkv.shape[-1] // (2 * D) - kv_heads
    split = [2 * heads * D, (2 * heads + kv_heads) * D]
    q, k, v = mx.split(qkv, split, axis=-1)
    q, gate = mx.split(q.reshape(B, 1, heads, 2 * D), 2, axis=-1)
    k = k.reshape(B, 1, kv_heads, D)
    normed = [mx.fast.rms_norm(x, weight, eps) for x, weight in ((q, q_norm), (k, k_norm))]
    rotated = mx.fast.rope(
        mx.concatenate(normed, axis=2).transpose(0, 2, 1, 3),
        rotary_dims,
        traditional=False,
        base=base,
        scale=1.0,
        offset=body_lengths + tail_length,
    )
    q, k = mx.split(rotated, [heads], axis=1)
    v = v.reshape(B, 1, kv_heads, D).transpose(0, 2, 1, 3)
    place = tail_length.reshape(1)
    tail_keys = mx.slice_update(tail_keys, k, place, axes=(2,))
    tail_values = mx.slice_update(tail_values, v, place, axes=(2,))
    return q, gate.reshape(B, 1, -1), tail_keys, tail_values


def metal_qk_norm_rope(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_length: mx.array,
    rotary_dims: int,
    base: float,
    *,
    runner: Runner = run,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """`qk_norm_rope` in one launch of B·(H + K + K·TAIL/8) simdgroups. Raises UnsupportedError."""
    if tail_length.ndim:
        raise UnsupportedError(f"tail_length of shape {tail_length.shape}: expected a scalar")
    norms, tails = (q_norm, k_norm, eps), (tail_keys, tail_values)
    return launched(qkv, norms, tails, (body_lengths, tail_length), rotary_dims, base, runner)


def launched(
    qkv: mx.array,
    norms: tuple[mx.array, mx.array, float],
    tails: tuple[mx.array, mx.array],
    lengths: tuple[mx.array, mx.array],
    rotary_dims: int,
    base: float,
    runner: Runner,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """One launch for qkv [B, T, ...]. norms: of queries and of keys, and eps; lengths: of the
    bodies, and of all tails (a scalar) or of each row's ([B]). Raises UnsupportedError."""
    (B, tokens), D = qkv.shape[:2], norms[0].shape[0]
    kv_heads, tail = tails[0].shape[1:3]
    heads = qkv.shape[-1] // (2 * D) - kv_heads
    if rotary_dims % 2 or not 0 <= rotary_dims <= D <= MAX_HEAD:
        raise UnsupportedError(
            f"{rotary_dims} rotary dims of {D}: expected an even number, at most {MAX_HEAD} in a "
            "head"
        )
    if any(buffer.dtype != qkv.dtype for buffer in tails):
        raise UnsupportedError(f"tails of {tails[0].dtype} and activations of {qkv.dtype}")
    works = tokens * (heads + kv_heads) + kv_heads * -(-tail // COPIED)
    q, gate, keys, values = runner(
        Launch(
            SEVERAL if lengths[1].ndim else ONE,
            inputs=(qkv, *norms, *tails, *lengths, log2(base)),
            template=(
                ("T", qkv.dtype),
                ("TOKENS", tokens),
                ("HEADS", heads),
                ("KV_HEADS", kv_heads),
                ("D", D),
                ("ROTARY", rotary_dims),
                ("TAIL", tail),
                ("COPIED", COPIED),
            ),
            grid=(works * SIMD, B, 1),
            threadgroup=(SIMD, 1, 1),
            outputs=(
                ((B, heads, tokens, D), qkv.dtype),
                ((B, tokens, heads * D), qkv.dtype),
                (tails[0].shape, qkv.dtype),
                (tails[1].shape, qkv.dtype),
            ),
        )
    )
    return q, gate, keys, values
