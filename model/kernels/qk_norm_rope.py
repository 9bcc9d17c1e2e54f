"""From the joint projection of an attention layer to normed and rotated queries and keys, for one
token.

Shapes: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from math import log2

import mlx.core as mx

from model.kernels.metal import SIMD, Launch, MetalKernel, Runner, UnsupportedError, run

MAX_HEAD = 4096  # of float32 in threadgroup memory: 16 KiB


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

    k = k.reshape(B, 1, kv_heads, D)
    normed = [mx.fast.rms_norm(x, weight, eps) for x, weight in ((q, q_norm), (k, k_norm))]
    rotated = mx.fast.rope(
        mx.concatenate(normed, axis=2).transpose(0, 2, 1, 3),
        rotary_dims,
        traditional=False,
        base=base,
        scale=1.0,
        offset=positions,
    )
    q, k = mx.split(rotated, [heads], axis=1)
    v = v.reshape(B, 1, kv_heads, D).transpose(0, 2, 1, 3)
    return q, gate.reshape(B, 1, -1), k, v


# One simdgroup per row and head: of a query head it norms and rotates the query and copies the
# gate, of a key/value head it norms and rotates the key and copies the value. Template: T
# activation type, HEADS, KV_HEADS, D, ROTARY dims. Angles are computed as mlx does,
# pos · 2^(-i/half · log2 base), since the keys of a prompt come from there.
KERNEL = MetalKernel(
    name="qk_norm_rope",
    inputs=("qkv", "q_norm", "k_norm", "eps", "positions", "log2_base"),
    outputs=("q", "gate", "k", "v"),
    source="""
        constexpr int WIDTH = 2 * (HEADS + KV_HEADS) * D;
        constexpr int HALF = ROTARY / 2;
        uint batch = threadgroup_position_in_grid.y;
        uint head = threadgroup_position_in_grid.x;
        uint lane = thread_index_in_simdgroup;
        bool of_query = head < HEADS;
        uint kv_head = of_query ? 0 : head - HEADS;
        uint row = batch * WIDTH;
        uint normed = row + (of_query ? 2 * head * D : (2 * HEADS + kv_head) * D);
        uint copied = of_query ? normed + D : normed + KV_HEADS * D;
        uint to = (of_query ? batch * HEADS + head : batch * KV_HEADS + kv_head) * D;
        threadgroup float values[D];

        float squares = 0;
        for (uint i = lane; i < D; i += 32) {
            float x = float(qkv[normed + i]);
            values[i] = x;
            squares += x * x;
        }
        float scale = metal::precise::rsqrt(simd_sum(squares) / D + eps);
        for (uint i = lane; i < D; i += 32) {
            values[i] *= scale * (of_query ? float(q_norm[i]) : float(k_norm[i]));
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);

        float position = float(positions[batch]);
        for (uint i = lane; i < D; i += 32) {
            float x = values[i];
            if (i < ROTARY) {
                uint pair = i < HALF ? i : i - HALF;
                float share = float(pair) / float(HALF);
                float angle = position * metal::exp2(-share * log2_base);
                float cosine = metal::precise::cos(angle);
                float sine = metal::precise::sin(angle);
                x = i < HALF ? x * cosine - values[i + HALF] * sine
                             : x * cosine + values[i - HALF] * sine;
            }
            T other = qkv[copied + i];
            if (of_query) {
                q[to + i] = static_cast<T>(x);
                gate[to + i] = other;
            } else {
                k[to + i] = static_cast<T>(x);
                v[to + i] = other;
            }
        }
    """,
)


def metal_qk_norm_rope(
    qkv: mx.array,
    q_norm: mx.array,
    k_norm: mx.array,
    eps: float,
    positions: mx.array,
    rotary_dims: int,
    base: float,
    heads: int,
    kv_heads: int,
    *,
    runner: Runner = run,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """`qk_norm_rope` in one launch of B·(H + K) simdgroups. Raises UnsupportedError."""
    B, D = qkv.shape[0], q_norm.shape[0]
    if rotary_dims % 2 or not 0 <= rotary_dims <= D <= MAX_HEAD:
        raise UnsupportedError(
            f"{rotary_dims} rotary dims of {D}: expected an even number, and at most {MAX_HEAD} "
            "in a head"
        )
    q, gate, k, v = runner(
        Launch(
            KERNEL,
            inputs=(qkv, q_norm, k_norm, eps, positions, log2(base)),
            template=(
                ("T", qkv.dtype),
                ("HEADS", heads),
                ("KV_HEADS", kv_heads),
                ("D", D),
                ("ROTARY", rotary_dims),
            ),
            grid=((heads + kv_heads) * SIMD, B, 1),
            threadgroup=(SIMD, 1, 1),
            outputs=(
                ((B, heads, 1, D), qkv.dtype),
                ((B, 1, heads * D), qkv.dtype),
                ((B, kv_heads, 1, D), qkv.dtype),
                ((B, kv_heads, 1, D), qkv.dtype),
            ),
        )
    )
    return q, gate, k, v
