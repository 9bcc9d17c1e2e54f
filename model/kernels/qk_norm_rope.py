"""From the joint projection of an attention layer to its queries and its longer tail, for one
token: norms, rotation, and the new key and value at their place.

Shapes: B sequences, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from math import log2

import mlx.core as mx

from model.kernels.metal import SIMD, Launch, MetalKernel, Runner, UnsupportedError, run

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


# One simdgroup per row and piece of work. Of a query head it norms and rotates the query and copies
# the gate; of a key/value head it norms and rotates the new key and copies the new value; the
# others copy COPIED places each of the old tails, all but the new one. Template: T activation type,
# HEADS, KV_HEADS, D, ROTARY dims, TAIL, COPIED. Angles are computed as mlx does, pos · 2^(-i/half ·
# log2 base), since the keys of a prompt come from there.
KERNEL = MetalKernel(
    name="qk_norm_rope",
    inputs=(
        "qkv",
        "q_norm",
        "k_norm",
        "eps",
        "tail_keys",
        "tail_values",
        "body_lengths",
        "tail_length",
        "log2_base",
    ),
    outputs=("q", "gate", "new_keys", "new_values"),
    source="""
        constexpr int WIDTH = 2 * (HEADS + KV_HEADS) * D;
        constexpr int HALF = ROTARY / 2;
        constexpr int PER_LANE = (D + 31) / 32;
        constexpr int BLOCKS = (TAIL + COPIED - 1) / COPIED;
        uint batch = threadgroup_position_in_grid.y;
        uint work = threadgroup_position_in_grid.x;
        uint lane = thread_index_in_simdgroup;
        uint new_place = uint(tail_length);
        threadgroup float values[D];

        if (work >= HEADS + KV_HEADS) {
            uint block = (work - HEADS - KV_HEADS) % BLOCKS;
            uint kv_head = (work - HEADS - KV_HEADS) / BLOCKS;
            for (uint n = 0; n < COPIED; n++) {
                uint place = block * COPIED + n;
                if (place >= TAIL || place == new_place) continue;
                uint at = ((batch * KV_HEADS + kv_head) * TAIL + place) * D + lane * PER_LANE;
                #pragma unroll
                for (int i = 0; i < PER_LANE; i++) {
                    if (D % 32 == 0 || lane * PER_LANE + i < D) {
                        new_keys[at + i] = tail_keys[at + i];
                        new_values[at + i] = tail_values[at + i];
                    }
                }
            }
            return;
        }

        bool of_query = work < HEADS;
        uint kv_head = of_query ? 0 : work - HEADS;
        uint row = batch * WIDTH;
        uint normed = row + (of_query ? 2 * work * D : (2 * HEADS + kv_head) * D);
        uint copied = of_query ? normed + D : normed + KV_HEADS * D;
        uint to = of_query ? (batch * HEADS + work) * D
                           : ((batch * KV_HEADS + kv_head) * TAIL + new_place) * D;

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

        float position = float(body_lengths[batch] + tail_length);
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
                new_keys[to + i] = static_cast<T>(x);
                new_values[to + i] = other;
            }
        }
    """,
)


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
    B, D = qkv.shape[0], q_norm.shape[0]
    kv_heads, tail = tail_keys.shape[1:3]
    heads = qkv.shape[-1] // (2 * D) - kv_heads
    if rotary_dims % 2 or not 0 <= rotary_dims <= D <= MAX_HEAD or tail_length.ndim:
        raise UnsupportedError(
            f"{rotary_dims} rotary dims of {D}, tail_length of shape {tail_length.shape}: expected "
            f"an even number, at most {MAX_HEAD} in a head, and a scalar"
        )
    if tail_keys.dtype != qkv.dtype or tail_values.dtype != qkv.dtype:
        raise UnsupportedError(f"tails of {tail_keys.dtype} and activations of {qkv.dtype}")
    works = heads + kv_heads + kv_heads * -(-tail // COPIED)
    q, gate, keys, values = runner(
        Launch(
            KERNEL,
            inputs=(
                qkv,
                q_norm,
                k_norm,
                eps,
                tail_keys,
                tail_values,
                body_lengths,
                tail_length,
                log2(base),
            ),
            template=(
                ("T", qkv.dtype),
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
                ((B, heads, 1, D), qkv.dtype),
                ((B, 1, heads * D), qkv.dtype),
                (tail_keys.shape, qkv.dtype),
                (tail_values.shape, qkv.dtype),
            ),
        )
    )
    return q, gate, keys, values
