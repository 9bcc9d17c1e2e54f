"""From the joint projection of an attention layer to normed and rotated queries and keys, for one
token.

Shapes: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import mlx.core as mx


def qk_norm_rope(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    positions: mx.array,
    rotary_dims: int,
    base: float,
    heads: int,
    kv_heads: int,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """One token of each row. Plain operations.

    qkv [B, 1, 2·H·D + 2·K·D]: per query head D of query and D of gate, then the keys, then the
    values; q_norm, k_norm [D]; positions int32 [B]; the first `rotary_dims` of D are rotated, in
    pairs (i, i + rotary_dims / 2).

    Returns q [B, H, 1, D], gate [B, 1, H·D], k and v [B, K, 1, D].
    """
    B, D = qkv.shape[0], q_norm.shape[0]
    split = [2 * heads * D, (2 * heads + kv_heads) * D]
    q, k, v = mx.split(qkv, split, axis=-1)
    q, gate = mx.split(q.reshape(B, 1, heads, 2 * D), 2, axis=-1)

    def rotated(x: mx.array, weight: mx.array) -> mx.array:
        """[B, 1, heads, D] -> [B, heads, 1, D]."""
        x = mx.fast.rms_norm(x, weight, eps).transpose(0, 2, 1, 3)
        return mx.fast.rope(
            x, rotary_dims, traditional=False, base=base, scale=1.0, offset=positions
        )

    q = rotated(q, q_norm)
    k = rotated(k.reshape(B, 1, kv_heads, D), k_norm)
    v = v.reshape(B, 1, kv_heads, D).transpose(0, 2, 1, 3)
    return q, gate.reshape(B, 1, -1), k, v
