"""The Metal text of `qk_norm_rope`, for one token of a row and for several."""

from __future__ import annotations

from model.kernels.metal import MetalKernel

# One simdgroup per row and piece of work. Of a token's query head it norms and rotates the query
# and copies the gate; of its key/value head it norms and rotates the new key and copies the new
# value; the others copy COPIED places each of the old tails, all but the new ones. Template: T
# activation type, TOKENS of a row, HEADS, KV_HEADS, D, ROTARY dims, TAIL, COPIED. Angles are
# computed as mlx does, pos · 2^(-i/half · log2 base), since the keys of a prompt come from there.
_SOURCE = """
        constexpr int WIDTH = 2 * (HEADS + KV_HEADS) * D;
        constexpr int WORKS = TOKENS * (HEADS + KV_HEADS);
        constexpr int HALF = ROTARY / 2;
        constexpr int PER_LANE = (D + 31) / 32;
        constexpr int BLOCKS = (TAIL + COPIED - 1) / COPIED;
        uint batch = threadgroup_position_in_grid.y;
        uint work = threadgroup_position_in_grid.x;
        uint lane = thread_index_in_simdgroup;
        uint first_new = uint(TAIL_LENGTH);
        threadgroup float values[D];

        if (work >= WORKS) {
            uint block = (work - WORKS) % BLOCKS;
            uint kv_head = (work - WORKS) / BLOCKS;
            for (uint n = 0; n < COPIED; n++) {
                uint place = block * COPIED + n;
                bool is_new = place >= first_new && place < first_new + TOKENS;
                if (place >= TAIL || is_new) continue;
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

        uint token = work / (HEADS + KV_HEADS);
        uint head = work % (HEADS + KV_HEADS);
        bool of_query = head < HEADS;
        uint kv_head = of_query ? 0 : head - HEADS;
        uint row = (batch * TOKENS + token) * WIDTH;
        uint normed = row + (of_query ? 2 * head * D : (2 * HEADS + kv_head) * D);
        uint copied = of_query ? normed + D : normed + KV_HEADS * D;
        uint place = first_new + token;
        if (!of_query && place >= TAIL) return;
        uint to = of_query ? ((batch * HEADS + head) * TOKENS + token) * D
                           : ((batch * KV_HEADS + kv_head) * TAIL + place) * D;
        uint gate_to = ((batch * TOKENS + token) * HEADS + head) * D;

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

        float position = float(uint(body_lengths[batch]) + place);
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
                gate[gate_to + i] = other;
            } else {
                new_keys[to + i] = static_cast<T>(x);
                new_values[to + i] = other;
            }
        }
"""


def _kernel(name: str, lengths: str, length: str) -> MetalKernel:
    """lengths: the input that has the tails'; length: one row's."""
    return MetalKernel(
        name=name,
        inputs=(
            "qkv",
            "q_norm",
            "k_norm",
            "eps",
            "tail_keys",
            "tail_values",
            "body_lengths",
            lengths,
            "log2_base",
        ),
        outputs=("q", "gate", "new_keys", "new_values"),
        source=_SOURCE.replace("TAIL_LENGTH", length),
    )


ONE = _kernel("qk_norm_rope", "tail_length", "tail_length")
SEVERAL = _kernel("qk_norm_rope_several", "tail_lengths", "tail_lengths[batch]")
