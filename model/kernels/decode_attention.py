"""Attention of one token over a body and a tail, in one softmax, with the output gate.

On Metal short contexts take one launch: a threadgroup per row and query head, whose 32 simdgroups
share the keys. From a body capacity of 2,048 on, which so few threadgroups could not read fast
enough, two launches: the first splits the context of every key/value head over up to 128
threadgroups, in which the G query heads that share the keys read them together, so each is read
from memory once; the second joins their results. At 131,072 tokens and one row of the real model
that is 256 threadgroups of 8 simdgroups with 1,024 keys each, and 2 MiB of partial results. The
context is split by its length, not by its capacity; nothing past a length is read.

Shapes: B sequences, H query heads, K key/value heads, G = H / K, D head size, C body capacity.
"""

from __future__ import annotations

import math

import mlx.core as mx

from model.kernels.decode_attention_kernel import (
    JOIN,
    SPLIT,
    SPLIT_SEVERAL,
    WHOLE,
    WHOLE_SEVERAL,
)
from model.kernels.metal import MAX_THREADS, SIMD, Launch, Runner, UnsupportedError, run

SPLIT_FROM = 2048  # body capacity
MAX_SPLITS = 128
THREADGROUPS = 256  # that keep a GPU of 40 cores busy
KEYS_PER_SPLIT = 64  # at least: less is not worth a threadgroup
MAX_HEAD = 512  # a lane keeps at most 16 values of a query and of its result in registers


def decode_attention(
    q: mx.array,
    body_keys: mx.array,
    body_values: mx.array,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_length: mx.array,
    scale: float,
    gate: mx.array,
) -> mx.array:
    """One token of each row. Plain operations.

    q [B, H, 1, D]; body_keys and body_values [B, K, C, D], C may be 0, of which row b has
    body_lengths[b] (int32 [B]); tail_keys and tail_values [B, K, TAIL, D], of which all rows have
    tail_length (an int32 scalar), the new token's own entry included: it is at least 1; gate
    [B, 1, H·D].

    Returns softmax(scale · q kᵀ) v times sigmoid(gate), [B, 1, H·D].
    """
    B, heads, _, D = q.shape
    capacity = body_keys.shape[2]
    grouped = (q * scale).reshape(B, body_keys.shape[1], -1, D)  # [B, K, G, D]
    scores = [_masked_scores(grouped, tail_keys, tail_length)]
    if capacity:
        scores.insert(0, _masked_scores(grouped, body_keys, body_lengths[:, None, None, None]))
    weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True).astype(q.dtype)
    attended = weights[..., capacity:] @ tail_values
    if capacity:
        attended = attended + weights[..., :capacity] @ body_values
    return attended.reshape(B, 1, heads * D) * mx.sigmoid(gate)


def _masked_scores(queries: mx.array, keys: mx.array, length: mx.array) -> mx.array:
    """queries [B, K, G, D] · keys [B, K, N, D] -> [B, K, G, N], -inf at and past `length`, a
    scalar or [B, 1, 1, 1].
    """
    scores = queries @ keys.swapaxes(-1, -2)
    return mx.where(mx.arange(keys.shape[2]) < length, scores, -mx.inf)


def metal_decode_attention(
    q: mx.array,
    body_keys: mx.array,
    body_values: mx.array,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_length: mx.array,
    scale: float,
    gate: mx.array,
    *,
    parts: int = MAX_THREADS // SIMD,
    runner: Runner = run,
) -> mx.array:
    """`decode_attention` in one launch, in which `parts` simdgroups share the keys of a query head,
    or in two for long contexts. Raises UnsupportedError.
    """
    if tail_length.ndim:
        raise UnsupportedError(f"tail_length of shape {tail_length.shape}: expected a scalar")
    lengths = body_lengths, tail_length
    buffers = body_keys, body_values, tail_keys, tail_values
    return launched(q, buffers, lengths, scale, gate, parts=parts, together=1, runner=runner)


def launched(
    q: mx.array,
    buffers: tuple[mx.array, mx.array, mx.array, mx.array],
    lengths: tuple[mx.array, mx.array],
    scale: float,
    gate: mx.array,
    *,
    parts: int,
    together: int,
    runner: Runner,
) -> mx.array:
    """Attention of q [B, H, T, D] over `buffers`, keys and values of body and tail, and `lengths`:
    of the bodies, and of all tails together with the new token (a scalar, T = 1) or of each row's
    without its new ones ([B]). One launch, in which a simdgroup takes `together` tokens, one or
    all; or two. Raises UnsupportedError.
    """
    B, heads, tokens, D = q.shape
    body_keys, body_values, tail_keys, tail_values = buffers
    kv_heads, capacity, tail = tail_keys.shape[1], body_keys.shape[2], tail_keys.shape[2]
    group = heads // kv_heads
    if heads % kv_heads or group > MAX_THREADS // SIMD or D > MAX_HEAD:
        raise UnsupportedError(
            f"{heads} query and {kv_heads} key/value heads of {D}: at most {MAX_THREADS // SIMD} "
            f"queries a key, of at most {MAX_HEAD}"
        )
    if B * kv_heads * max(capacity, tail) * D >= 1 << 32:
        raise UnsupportedError(f"{B} rows of {capacity} places: more than 2^32 values")
    whole, split = (WHOLE_SEVERAL, SPLIT_SEVERAL) if lengths[1].ndim else (WHOLE, SPLIT)
    splits = _splits(B * kv_heads, capacity)
    # An empty array has no memory to pass: the tail stands in, and nothing of it is read as a body.
    bodies = (body_keys, body_values) if capacity else (tail_keys, tail_values)
    inputs = (q, *bodies, tail_keys, tail_values, *lengths, scale * math.log2(math.e))
    sizes = (
        ("T", q.dtype),
        ("H", heads),
        ("KV_HEADS", kv_heads),
        ("D", D),
        ("CAPACITY", capacity),
        ("TAIL", tail),
        ("SPLITS", splits),
        ("TOKENS", tokens),
    )
    result = ((B, tokens, heads * D), q.dtype)
    if splits == 1:
        (out,) = runner(
            Launch(
                whole,
                inputs=(*inputs, gate),
                template=(*sizes, ("TOGETHER", together), ("HEADS", 1), ("PARTS", parts)),
                grid=(parts * SIMD, heads, B * (tokens // together)),
                threadgroup=(parts * SIMD, 1, 1),
                outputs=(result,),
            )
        )
        return out
    parts = max(8 // group, 1)
    threads = group * parts * SIMD
    partial = runner(
        Launch(
            split,
            inputs=inputs,
            template=(*sizes, ("TOGETHER", tokens), ("HEADS", group), ("PARTS", parts)),
            grid=(splits * threads, B * kv_heads, 1),
            threadgroup=(threads, 1, 1),
            outputs=(
                ((B, tokens, heads, splits, D), mx.float32),
                ((B, tokens, heads, splits), mx.float32),
                ((B, tokens, heads, splits), mx.float32),
            ),
        )
    )
    width = -(-D // SIMD) * SIMD
    ways = min(MAX_THREADS // width, 4)
    (out,) = runner(
        Launch(
            JOIN,
            inputs=(*partial, gate),
            template=(
                ("T", q.dtype),
                ("D", D),
                ("SPLITS", splits),
                ("WIDTH", width),
                ("WAYS", ways),
            ),
            grid=(B * tokens * heads * width * ways, 1, 1),
            threadgroup=(width * ways, 1, 1),
            outputs=(result,),
        )
    )
    return out


def _splits(kv_rows: int, capacity: int) -> int:
    """Threadgroups that share the context of one row's key/value head: 1, or so many that all rows
    together keep the GPU busy."""
    if capacity < SPLIT_FROM:
        return 1
    return max(2, min(MAX_SPLITS, -(-THREADGROUPS // kv_rows), capacity // KEYS_PER_SPLIT))
