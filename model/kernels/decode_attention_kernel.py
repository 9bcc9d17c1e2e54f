"""The Metal text of `decode_attention`: one kernel for short contexts, two for long ones."""

from __future__ import annotations

from model.kernels.metal import MetalKernel

# What both kernels share: simdgroup number `place` = part · HEADS + head attends with one query to
# every PARTS-th block of STEP keys between `first` and `last`. Places count over body, then tail.
_ATTEND = """
        constexpr int PER_LANE = (D + 31) / 32;
        constexpr int STEP = 4;
        constexpr bool EVEN = D % 32 == 0;
        uint lane = thread_index_in_simdgroup;
        uint part = simdgroup_index_in_threadgroup / HEADS;
        uint in_body = CAPACITY == 0 ? 0 : min(uint(body_lengths[batch]), uint(CAPACITY));
        uint length = in_body + min(uint(tail_length), uint(TAIL));
        uint first = uint(ulong(length) * split / SPLITS);
        uint last = uint(ulong(length) * (split + 1) / SPLITS);

        float query[PER_LANE];
        float sums[PER_LANE];
        for (int n = 0; n < PER_LANE; n++) {
            uint i = lane * PER_LANE + n;
            query[n] = EVEN || i < D ? float(q[(batch * H + head) * D + i]) * log2_scale : 0.0f;
            sums[n] = 0;
        }
        float highest = -INFINITY;
        float total = 0;
        for (uint start = first + part * STEP; start < last; start += PARTS * STEP) {
            float scores[STEP];
            float step_highest = highest;
            #pragma unroll
            for (int s = 0; s < STEP; s++) {
                uint j = start + s;
                float dot = 0;
                if (j < last) {
                    const device T* keys = j < in_body
                        ? body_keys + (kv_row * CAPACITY + j) * D + lane * PER_LANE
                        : tail_keys + (kv_row * TAIL + j - in_body) * D + lane * PER_LANE;
                    #pragma unroll
                    for (int n = 0; n < PER_LANE; n++) {
                        if (EVEN || lane * PER_LANE + n < D) dot += query[n] * float(keys[n]);
                    }
                }
                scores[s] = simd_sum(dot);
                if (j >= last) scores[s] = -INFINITY;
                step_highest = metal::max(step_highest, scores[s]);
            }
            float factor = metal::exp2(highest - step_highest);
            highest = step_highest;
            total *= factor;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) sums[n] *= factor;
            #pragma unroll
            for (int s = 0; s < STEP; s++) {
                uint j = start + s;
                if (j < last) {
                    const device T* values = j < in_body
                        ? body_values + (kv_row * CAPACITY + j) * D + lane * PER_LANE
                        : tail_values + (kv_row * TAIL + j - in_body) * D + lane * PER_LANE;
                    float share = metal::exp2(scores[s] - highest);
                    total += share;
                    #pragma unroll
                    for (int n = 0; n < PER_LANE; n++) {
                        if (EVEN || lane * PER_LANE + n < D) sums[n] += share * float(values[n]);
                    }
                }
            }
        }
"""

# Joins the PARTS simdgroups of each of HEADS heads: `sums`, `highest` and `total` of a head end up
# right in every simdgroup of it, `sums` through `results`, from where the caller takes them.
_JOIN = """
        constexpr int SIMDGROUPS = HEADS * PARTS;
        constexpr int ROUND = 4;
        threadgroup float maxima[SIMDGROUPS];
        threadgroup float totals[SIMDGROUPS];
        threadgroup float shares[SIMDGROUPS * ROUND * 32];
        uint place = simdgroup_index_in_threadgroup;
        if (lane == 0) {
            maxima[place] = highest;
            totals[place] = total;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float top = -INFINITY;
        for (int p = 0; p < PARTS; p++) {
            top = metal::max(top, maxima[p * HEADS + place % HEADS]);
        }
        // A part without keys has nothing: no infinity minus infinity.
        float own = highest == -INFINITY ? 0.0f : metal::exp2(highest - top);
        total = 0;
        for (int p = 0; p < PARTS; p++) {
            float other = maxima[p * HEADS + place % HEADS];
            if (other != -INFINITY) {
                total += totals[p * HEADS + place % HEADS] * metal::exp2(other - top);
            }
        }
        highest = top;
        #pragma unroll
        for (int from = 0; from < PER_LANE; from += ROUND) {
            #pragma unroll
            for (int n = 0; n < ROUND; n++) {
                if (from + n < PER_LANE) {
                    shares[(place * ROUND + n) * 32 + lane] = sums[from + n] * own;
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
                        sums[from + n] = sum;
                    }
                }
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);
        }
"""

_INPUTS = (
    "q",
    "body_keys",
    "body_values",
    "tail_keys",
    "tail_values",
    "body_lengths",
    "tail_length",
    "log2_scale",
)
_HEADER = """
        inline float sigmoid_of(float x) { return 1.0f / (1.0f + metal::precise::exp(-x)); }
"""

# Template: T activation type, H query heads, KV_HEADS, D, CAPACITY, TAIL, SPLITS, and how the
# simdgroups of a threadgroup divide the work, HEADS query heads times PARTS of the keys.
WHOLE = MetalKernel(
    name="decode_attention",
    inputs=(*_INPUTS, "gate"),
    outputs=("out",),
    header=_HEADER,
    source=f"""
        uint batch = threadgroup_position_in_grid.z;
        uint head = threadgroup_position_in_grid.y;
        uint kv_row = batch * KV_HEADS + head / (H / KV_HEADS);
        constexpr uint split = 0;
        {_ATTEND}
        {_JOIN}
        if (part == 0) {{
            for (int n = 0; n < PER_LANE; n++) {{
                uint i = lane * PER_LANE + n;
                if (i < D) {{
                    uint to = (batch * H + head) * D + i;
                    out[to] = static_cast<T>(sums[n] / total * sigmoid_of(float(gate[to])));
                }}
            }}
        }}
    """,
)
SPLIT = MetalKernel(
    name="decode_attention_split",
    inputs=_INPUTS,
    outputs=("parts", "part_highest", "part_total"),
    source=f"""
        uint split = threadgroup_position_in_grid.x;
        uint kv_row = threadgroup_position_in_grid.y;
        uint batch = kv_row / KV_HEADS;
        uint head = kv_row % KV_HEADS * HEADS + simdgroup_index_in_threadgroup % HEADS;
        {_ATTEND}
        {_JOIN}
        if (part == 0) {{
            uint to = (batch * H + head) * SPLITS + split;
            for (int n = 0; n < PER_LANE; n++) {{
                uint i = lane * PER_LANE + n;
                if (i < D) parts[to * D + i] = sums[n];
            }}
            if (lane == 0) {{
                part_highest[to] = highest;
                part_total[to] = total;
            }}
        }}
    """,
)
# One threadgroup per row and query head; WAYS threads share the splits of each of WIDTH outputs.
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
