"""Attention of a few tokens of each row over a body and a tail, in one softmax, with the output
gate.

The kernels are those of a single token, but for a length of each row's tail. Short contexts take
one launch, in which each token of a query head has a threadgroup, or all of them share one; long
contexts take two, in which a key is read from memory once for all tokens of a row and all query
heads that share it.

Shapes: B sequences, T new tokens, H query heads, K key/value heads, G = H / K, D head size, C body
capacity.
"""

from __future__ import annotations

import mlx.core as mx

from model.kernels.decode_attention import launched
from model.kernels.metal import MAX_THREADS, MAX_TOKENS, SIMD, Runner, UnsupportedError, run
from model.kernels.qk_norm_rope_several import count


def decode_attention_several(
    q: mx.array,
    body_keys: mx.array,
    body_values: mx.array,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_lengths: mx.array,
    scale: float,
    gate: mx.array,
) -> mx.array:
    """A few tokens of each row. Plain operations.

    q [B, H, T, D]; body_keys and body_values [B, K, C, D], C may be 0, of which row b has
    body_lengths[b] (int32 [B]); tail_keys and tail_values [B, K, TAIL, D], of which token t of row
    b sees tail_lengths[b] + t + 1 (int32 [B]), its own entry included; gate [B, T, H·D].

    Returns softmax(scale · q kᵀ) v times sigmoid(gate), [B, T, H·D].
    """
    B, heads, T, D = q.shape
    kv_heads, capacity = body_keys.shape[1:3]
    grouped = (q * scale).reshape(B, kv_heads, -1, D)  # G queries by T tokens
    shape = (B, kv_heads, heads // kv_heads, T, -1)
    # Token t sees the tail up to itself.
    ends = (tail_lengths[:, None] + count(T))[:, None, None, :, None]
    scores = [_scores(grouped, tail_keys, shape, count(tail_keys.shape[2]) <= ends)]
    if capacity:
        seen = count(capacity) < body_lengths[:, None, None, None, None]
        scores.insert(0, _scores(grouped, body_keys, shape, seen))
    weights = mx.softmax(mx.concatenate(scores, axis=-1), axis=-1, precise=True)
    weights = weights.astype(q.dtype).reshape(B, kv_heads, grouped.shape[2], -1)
    attended = weights[..., capacity:] @ tail_values
    if capacity:
        attended = attended + weights[..., :capacity] @ body_values
    attended = attended.reshape(B, heads, T, D).transpose(0, 2, 1, 3).reshape(B, T, -1)
    return attended * mx.sigmoid(gate)


def _scores(queries: mx.array, keys: mx.array, shape: tuple[int, ...], seen: mx.array) -> mx.array:
    """queries [B, K, G·T, D] · keys [B, K, N, D] as `shape` [B, K, G, T, N], -inf where not
    `seen`."""
    return mx.where(seen, (queries @ keys.swapaxes(-1, -2)).reshape(shape), -mx.inf)


def metal_decode_attention_several(
    q: mx.array,
    body_keys: mx.array,
    body_values: mx.array,
    tail_keys: mx.array,
    tail_values: mx.array,
    body_lengths: mx.array,
    tail_lengths: mx.array,
    scale: float,
    gate: mx.array,
    *,
    parts: int = MAX_THREADS // SIMD,
    together: bool = False,
    runner: Runner = run,
) -> mx.array:
    """`decode_attention_several` in one launch, in which `parts` simdgroups share the keys of a
    query head and token, or `together` of a query head and all its tokens; or in two for long
    contexts. Raises UnsupportedError.
    """
    tokens, tail = q.shape[2], tail_keys.shape[2]
    if not 0 < tokens <= min(MAX_TOKENS, tail) or tail_lengths.ndim != 1:
        raise UnsupportedError(
            f"{tokens} tokens for a tail of {tail}, tail_lengths of shape {tail_lengths.shape}: at "
            f"most {MAX_TOKENS} tokens, and a length for each row"
        )
    lengths = body_lengths, tail_lengths
    buffers = body_keys, body_values, tail_keys, tail_values
    at_once = tokens if together else 1
    return launched(q, buffers, lengths, scale, gate, parts=parts, together=at_once, runner=runner)
