"""The Metal text of `delta_step`."""

from __future__ import annotations

from dataclasses import dataclass

from model.kernels.metal import MetalKernel


@dataclass(frozen=True, slots=True)
class _Gates:
    """Where `alpha` and `write`, one number each for a head, come from: code before the first
    barrier and after it."""

    name: str
    inputs: tuple[str, ...]
    before: str
    after: str


_GIVEN = _Gates(
    name="given",
    inputs=("ab",),
    before="",
    after="""
        float alpha = float(ab[batch * 2 * HV + head]);
        float write = float(ab[batch * 2 * HV + HV + head]);
    """,
)
# Two rows of a small matrix for each head: not worth a launch of their own.
_COMPUTED = _Gates(
    name="computed",
    inputs=("x", "ab_weight"),
    before="""
        threadgroup float alpha_parts[SIMDGROUPS];
        threadgroup float write_parts[SIMDGROUPS];
        float alpha_part = 0;
        float write_part = 0;
        for (uint i = thread_index_in_threadgroup; i < HIDDEN; i += SIMDGROUPS * 32) {
            float input = float(x[batch * HIDDEN + i]);
            alpha_part += input * float(ab_weight[head * HIDDEN + i]);
            write_part += input * float(ab_weight[(HV + head) * HIDDEN + i]);
        }
        alpha_part = simd_sum(alpha_part);
        write_part = simd_sum(write_part);
        if (lane == 0) {
            alpha_parts[simdgroup] = alpha_part;
            write_parts[simdgroup] = write_part;
        }
    """,
    after="""
        float alpha = simd_sum(lane < SIMDGROUPS ? alpha_parts[lane] : 0.0f);
        float write = simd_sum(lane < SIMDGROUPS ? write_parts[lane] : 0.0f);
    """,
)


def _kernel(gates: _Gates) -> MetalKernel:
    """One threadgroup per row and value head; a simdgroup updates every SIMDGROUPS-th row of the
    head's matrix, a lane PER_LANE neighbouring columns. Template: T activation type, W, HK, HV, DK,
    DV, SIMDGROUPS, HIDDEN.

    The channels of a key head are convolved by each of its value heads and kept by the first.
    """
    return MetalKernel(
        name=f"delta_step_{gates.name}",
        inputs=(
            "qkvz",
            *gates.inputs,
            "conv_tail",
            "taps",
            "decay_rate",
            "dt_bias",
            "norm",
            "eps",
            "recurrent",
        ),
        outputs=("out", "new_tail", "new_recurrent"),
        header="""
        inline float sigmoid_of(float x) { return 1.0f / (1.0f + metal::precise::exp(-x)); }
        // log(1 + exp(x)) without losing what a small exp(x) adds to one.
        inline float softplus_of(float x) {
            float e = metal::precise::exp(-metal::abs(x));
            float u = 1.0f + e;
            float log1p = u == 1.0f ? e : metal::precise::log(u) * (e / (u - 1.0f));
            return metal::max(x, 0.0f) + log1p;
        }
    """,
        source=f"""
        constexpr int CHANNELS = 2 * HK * DK + HV * DV;
        constexpr int PER_LANE = (DK + 31) / 32;
        constexpr int ROWS = (DV + SIMDGROUPS - 1) / SIMDGROUPS;
        constexpr int VALUE_HEADS_PER_KEY = HV / HK;
        constexpr bool EVEN = DK % 32 == 0;
        uint batch = threadgroup_position_in_grid.z;
        uint head = threadgroup_position_in_grid.y;
        uint key_head = head / VALUE_HEADS_PER_KEY;
        uint lane = thread_index_in_simdgroup;
        uint simdgroup = simdgroup_index_in_threadgroup;
        uint inputs = batch * (CHANNELS + HV * DV);
        uint tail = batch * (W - 1) * CHANNELS;
        threadgroup float queries[DK];
        threadgroup float keys[DK];
        threadgroup float values[DV];
        threadgroup float outputs[DV];

        for (uint i = thread_index_in_threadgroup; i < 2 * DK + DV; i += SIMDGROUPS * 32) {{
            bool of_key = i < 2 * DK;
            uint channel = i < DK ? key_head * DK + i
                : of_key ? HK * DK + key_head * DK + (i - DK)
                         : 2 * HK * DK + head * DV + (i - 2 * DK);
            bool keep = !of_key || head % VALUE_HEADS_PER_KEY == 0;
            float sum = 0;
            for (int w = 0; w < W; w++) {{
                T input = w < W - 1 ? conv_tail[tail + w * CHANNELS + channel]
                                    : qkvz[inputs + channel];
                sum += float(input) * float(taps[w * CHANNELS + channel]);
                if (w > 0 && keep) new_tail[tail + (w - 1) * CHANNELS + channel] = input;
            }}
            sum *= sigmoid_of(sum);
            if (i < DK) queries[i] = sum;
            else if (of_key) keys[i - DK] = sum;
            else values[i - 2 * DK] = sum;
        }}
        {gates.before}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        {gates.after}
        float q[PER_LANE];
        float k[PER_LANE];
        float q_squares = 0;
        float k_squares = 0;
        #pragma unroll
        for (int n = 0; n < PER_LANE; n++) {{
            uint i = lane * PER_LANE + n;
            q[n] = i < DK ? queries[i] : 0.0f;
            k[n] = i < DK ? keys[i] : 0.0f;
            q_squares += q[n] * q[n];
            k_squares += k[n] * k[n];
        }}
        float q_scale = metal::precise::rsqrt(simd_sum(q_squares) + 1e-6f)
            * metal::precise::rsqrt(float(DK));
        float k_scale = metal::precise::rsqrt(simd_sum(k_squares) + 1e-6f);
        #pragma unroll
        for (int n = 0; n < PER_LANE; n++) {{
            q[n] *= q_scale;
            k[n] *= k_scale;
        }}
        float rate = decay_rate[head] * softplus_of(alpha + dt_bias[head]);
        float decay = metal::precise::exp(-rate);
        float beta = sigmoid_of(write);

        #pragma unroll
        for (int r = 0; r < ROWS; r++) {{
            uint row = r * SIMDGROUPS + simdgroup;
            bool there = DV % SIMDGROUPS == 0 || row < DV;
            uint at = ((batch * HV + head) * DV + row) * DK + lane * PER_LANE;
            float state[PER_LANE];
            float recalled = 0;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {{
                bool inside = there && (EVEN || lane * PER_LANE + n < DK);
                state[n] = inside ? recurrent[at + n] * decay : 0.0f;
                recalled += state[n] * k[n];
            }}
            recalled = simd_sum(recalled);
            float delta = there ? (values[row] - recalled) * beta : 0.0f;
            float read = 0;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {{
                state[n] += delta * k[n];
                read += state[n] * q[n];
                bool inside = there && (EVEN || lane * PER_LANE + n < DK);
                if (inside) new_recurrent[at + n] = state[n];
            }}
            read = simd_sum(read);
            if (there && lane == 0) outputs[row] = read;
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);

        float squares = 0;
        for (uint i = lane; i < DV; i += 32) squares += outputs[i] * outputs[i];
        float scale = metal::precise::rsqrt(simd_sum(squares) / DV + eps);
        for (uint i = thread_index_in_threadgroup; i < DV; i += SIMDGROUPS * 32) {{
            float z = float(qkvz[inputs + CHANNELS + head * DV + i]);
            float gated = outputs[i] * scale * float(norm[i]) * z * sigmoid_of(z);
            out[(batch * HV + head) * DV + i] = static_cast<T>(gated);
        }}
    """,
    )


# By where the gates come from: GIVEN to the kernel, or COMPUTED in it.
KERNELS = {gates.name: _kernel(gates) for gates in (_GIVEN, _COMPUTED)}
