"""Attention of one token over a body and a tail, in one softmax, with the output gate.

Shapes: B sequences, H query heads, K key/value heads, G = H / K, D head size, C body capacity.
"""

from __future__ import annotations

import mlx.core as mx


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
