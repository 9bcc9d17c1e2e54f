"""The Metal text of attention in a step: one kernel for short contexts, two for long ones, each for
one token of a row and for several."""

from __future__ import annotations

from model.kernels.metal import MetalKernel

# What both kernels share: simdgroup number `place` = part · HEADS + head attends with one query
# head to every PARTS-th block of STEP keys between `first` and `last`, with TOGETHER of a row's
# TOKENS at once, from `token` on. Places count over body, then tail. Of the tail the last token
# sees FILLED places, each other token one less than the one after it.
_ATTEND = """
        constexpr int PER_LANE = (D + 31) / 32;
        constexpr int STEP = 4;
        constexpr bool EVEN = D % 32 == 0;
        uint lane = thread_index_in_simdgroup;
        uint part = simdgroup_index_in_threadgroup / HEADS;
        uint in_body = CAPACITY == 0 ? 0 : min(uint(body_lengths[batch]), uint(CAPACITY));
        uint length = in_body + min(uint(FILLED), uint(TAIL));
        uint first = uint(ulong(length) * split / SPLITS);
        uint last = uint(ulong(length) * (split + 1) / SPLITS);

        float query[TOGETHER][PER_LANE];
        float sums[TOGETHER][PER_LANE];
        float highest[TOGETHER];
        float total[TOGETHER];
        uint ends[TOGETHER];
        #pragma unroll
        for (int t = 0; t < TOGETHER; t++) {
            uint from = ((batch * H + head) * TOKENS + token + t) * D;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {
                uint i = lane * PER_LANE + n;
                query[t][n] = EVEN || i < D ? float(q[from + i]) * log2_scale : 0.0f;
                sums[t][n] = 0;
            }
            highest[t] = -INFINITY;
            total[t] = 0;
            ends[t] = min(last, length - (TOKENS - 1 - token - t));
        }
        for (uint start = first + part * STEP; start < last; start += PARTS * STEP) {
            float scores[TOGETHER][STEP];
            #pragma unroll
            for (int s = 0; s < STEP; s++) {
                uint j = start + s;
                float dots[TOGETHER];
                #pragma unroll
                for (int t = 0; t < TOGETHER; t++) dots[t] = 0;
                if (j < last) {
                    const device T* keys = j < in_body
                        ? body_keys + (kv_row * CAPACITY + j) * D + lane * PER_LANE
                        : tail_keys + (kv_row * TAIL + j - in_body) * D + lane * PER_LANE;
                    #pragma unroll
                    for (int n = 0; n < PER_LANE; n++) {
                        if (EVEN || lane * PER_LANE + n < D) {
                            float key = float(keys[n]);
                            #pragma unroll
                            for (int t = 0; t < TOGETHER; t++) dots[t] += query[t][n] * key;
                        }
                    }
                }
                #pragma unroll
                for (int t = 0; t < TOGETHER; t++) {
                    scores[t][s] = simd_sum(dots[t]);
                    if (j >= ends[t]) scores[t][s] = -INFINITY;
                }
            }
            #pragma unroll
            for (int t = 0; t < TOGETHER; t++) {
                float step_highest = highest[t];
                #pragma unroll
                for (int s = 0; s < STEP; s++) {
                    step_highest = metal::max(step_highest, scores[t][s]);
                }
                // Of keys that this token does not see nothing is left: no infinity minus infinity.
                float factor = step_highest == highest[t]
                    ? 1.0f : metal::exp2(highest[t] - step_highest);
                highest[t] = step_highest;
                total[t] *= factor;
                #pragma unroll
                for (int n = 0; n < PER_LANE; n++) sums[t][n] *= factor;
                #pragma unroll
                for (int s = 0; s < STEP; s++) {
                    scores[t][s] = start + s < ends[t]
                        ? metal::exp2(scores[t][s] - step_highest) : 0.0f;
                    total[t] += scores[t][s];
                }
            }
            #pragma unroll
            for (int s = 0; s < STEP; s++) {
                uint j = start + s;
                if (j < last) {
                    const device T* values = j < in_body
                        ? body_values + (kv_row * CAPACITY + j) * D + lane * PER_LANE
                        : tail_values + (kv_row * TAIL + j - in_body) * D + lane * PER_LANE;
                    #pragma unroll
                    for (int n = 0; n < PER_LANE; n++) {
                        if (EVEN || lane * PER_LANE + n < D) {
                            float value = float(values[n]);
                            #pragma unroll
                            for (int t = 0; t < TOGETHER; t++) {
                                sums[t][n] += scores[t][s] * value;
                            }
                        }
                    }
                }
            }
        }
"""

# Joins the PARTS simdgroups of each of HEADS heads: `sums`, `highest` and `total` of a head's token
# end up right in every simdgroup of it, `sums` through `shares`, from where part 0 takes them.
_JOIN = """
        constexpr int SIMDGROUPS = HEADS * PARTS;
        constexpr int ROUND = 4;
        threadgroup float maxima[SIMDGROUPS * TOGETHER];
        threadgroup float totals[SIMDGROUPS * TOGETHER];
        threadgroup float shares[SIMDGROUPS * ROUND * 32];
        uint place = simdgroup_index_in_threadgroup;
        if (lane == 0) {
            #pragma unroll
            for (int t = 0; t < TOGETHER; t++) {
                maxima[t * SIMDGROUPS + place] = highest[t];
                totals[t * SIMDGROUPS + place] = total[t];
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        #pragma unroll
        for (int t = 0; t < TOGETHER; t++) {
            uint of_head = t * SIMDGROUPS + place % HEADS;
            float top = -INFINITY;
            for (int p = 0; p < PARTS; p++) top = metal::max(top, maxima[p * HEADS + of_head]);
            // A part without keys has nothing: no infinity minus infinity.
            float own = highest[t] == -INFINITY ? 0.0f : metal::exp2(highest[t] - top);
            total[t] = 0;
            for (int p = 0; p < PARTS; p++) {
                float other = maxima[p * HEADS + of_head];
                if (other != -INFINITY) {
                    total[t] += totals[p * HEADS + of_head] * metal::exp2(other - top);
                }
            }
            highest[t] = top;
            #pragma unroll
            for (int from = 0; from < PER_LANE; from += ROUND) {
                #pragma unroll
                for (int n = 0; n < ROUND; n++) {
                    if (from + n < PER_LANE) {
                        shares[(place * ROUND + n) * 32 + lane] = sums[t][from + n] * own;
                    }
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                if (part == 0) {
                    #pragma unroll
                    for (int n = 0; n < ROUND; n++) {
                        if (from + n < PER_LANE) {
                            float sum = 0;
                            for (int p = 0; p < PARTS; p++) {
                                sum += shares[((p * HEADS + place) * ROUND + n) * 32 + lane];
                            }
                            sums[t][from + n] = sum;
                        }
                    }
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
            }
        }
"""

_HEADER = """
        inline float sigmoid_of(float x) { return 1.0f / (1.0f + metal::precise::exp(-x)); }
"""
_WHOLE = f"""
        constexpr uint APART = TOKENS / TOGETHER;
        uint batch = threadgroup_position_in_grid.z / APART;
        uint token = threadgroup_position_in_grid.z % APART;
        uint head = threadgroup_position_in_grid.y;
        uint kv_row = batch * KV_HEADS + head / (H / KV_HEADS);
        constexpr uint split = 0;
        {_ATTEND}
        {_JOIN}
        if (part == 0) {{
            #pragma unroll
            for (int t = 0; t < TOGETHER; t++) {{
                uint to = ((batch * TOKENS + token + t) * H + head) * D;
                #pragma unroll
                for (int n = 0; n < PER_LANE; n++) {{
                    uint i = lane * PER_LANE + n;
                    if (i < D) {{
                        float sum = sums[t][n] / total[t];
                        out[to + i] = static_cast<T>(sum * sigmoid_of(float(gate[to + i])));
                    }}
                }}
            }}
        }}
"""
_SPLIT = f"""
        constexpr uint token = 0;
        uint split = threadgroup_position_in_grid.x;
        uint kv_row = threadgroup_position_in_grid.y;
        uint batch = kv_row / KV_HEADS;
        uint head = kv_row % KV_HEADS * HEADS + simdgroup_index_in_threadgroup % HEADS;
        {_ATTEND}
        {_JOIN}
        if (part == 0) {{
            #pragma unroll
            for (int t = 0; t < TOGETHER; t++) {{
                uint to = ((batch * TOKENS + t) * H + head) * SPLITS + split;
                #pragma unroll
                for (int n = 0; n < PER_LANE; n++) {{
                    uint i = lane * PER_LANE + n;
                    if (i < D) parts[to * D + i] = sums[t][n];
                }}
                if (lane == 0) {{
                    part_highest[to] = highest[t];
                    part_total[to] = total[t];
                }}
            }}
        }}
"""


def _kernels(suffix: str, lengths: str, filled: str) -> tuple[MetalKernel, MetalKernel]:
    """The kernel of short contexts, and the first of long ones. lengths: the input that has the
    tails'; filled: what of a row's tail its last token sees."""
    inputs = (
        "q",
        "body_keys",
        "body_values",
        "tail_keys",
        "tail_values",
        "body_lengths",
        lengths,
        "log2_scale",
    )
    whole = MetalKernel(
        name=f"decode_attention{suffix}",
        inputs=(*inputs, "gate"),
        outputs=("out",),
        header=_HEADER,
        source=_WHOLE.replace("FILLED", filled),
    )
    split = MetalKernel(
        name=f"decode_attention{suffix}_split",
        inputs=inputs,
        outputs=("parts", "part_highest", "part_total"),
        source=_SPLIT.replace("FILLED", filled),
    )
    return whole, split


# Template: T activation type, H query heads, KV_HEADS, D, CAPACITY, TAIL, SPLITS, TOKENS of a row
# and how many of them a simdgroup takes TOGETHER, one or all, and how the simdgroups of a
# threadgroup divide the work, HEADS query heads times PARTS of the keys.
WHOLE, SPLIT = _kernels("", "tail_length", "tail_length")
WHOLE_SEVERAL, SPLIT_SEVERAL = _kernels("_several", "tail_lengths", "tail_lengths[batch] + TOKENS")
# One threadgroup per row, token and query head; WAYS threads share the splits of each of WIDTH
# outputs.
JOIN = MetalKernel(
    name="decode_attention_join",
    inputs=("parts", "part_highest", "part_total", "gate"),
    outputs=("out",),
    header=_HEADER,
    source="""
        uint first = threadgroup_position_in_grid.x * SPLITS;
        uint lane = thread_index_in_simdgroup;
        uint i = thread_index_in_threadgroup % WIDTH;
        uint way = thread_index_in_threadgroup / WIDTH;
        threadgroup float sums[WAYS * WIDTH];

        float top = -INFINITY;
        for (uint s = lane; s < SPLITS; s += 32) top = metal::max(top, part_highest[first + s]);
        top = simd_max(top);
        float total = 0;
        float sum = 0;
        for (uint s = 0; s < SPLITS; s++) {
            float highest = part_highest[first + s];
            if (highest != -INFINITY) {
                float factor = metal::exp2(highest - top);
                total += part_total[first + s] * factor;
                if (s % WAYS == way && i < D) sum += parts[(first + s) * D + i] * factor;
            }
        }
        sums[way * WIDTH + i] = sum;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (way == 0 && i < D) {
            float all = 0;
            for (int w = 0; w < WAYS; w++) all += sums[w * WIDTH + i];
            uint to = threadgroup_position_in_grid.x * D + i;
            out[to] = static_cast<T>(all / total * sigmoid_of(float(gate[to])));
        }
    """,
)
