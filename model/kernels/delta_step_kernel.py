"""The Metal text of `delta_step` and of `delta_step_several`: one, with the number of tokens as a
constant."""

from __future__ import annotations

from dataclasses import dataclass

from model.kernels.metal import MetalKernel


@dataclass(frozen=True, slots=True)
class _Gates:
    """Where `alpha` and `write`, one number each for a head and token, come from: code before the
    first barrier, and for each `token` after it."""

    name: str
    inputs: tuple[str, ...]
    before: str
    after: str


_GIVEN = _Gates(
    name="given",
    inputs=("ab",),
    before="",
    after="""
            float alpha = float(ab[(batch * TOKENS + token) * 2 * HV + head]);
            float write = float(ab[(batch * TOKENS + token) * 2 * HV + HV + head]);
    """,
)
# Two rows of a small matrix for each head: not worth a launch of their own.
_COMPUTED = _Gates(
    name="computed",
    inputs=("x", "ab_weight"),
    before="""
        threadgroup float alpha_parts[TOKENS * SIMDGROUPS];
        threadgroup float write_parts[TOKENS * SIMDGROUPS];
        float alpha_part[TOKENS];
        float write_part[TOKENS];
        #pragma unroll
        for (int token = 0; token < TOKENS; token++) alpha_part[token] = write_part[token] = 0;
        for (uint i = thread_index_in_threadgroup; i < HIDDEN; i += SIMDGROUPS * 32) {
            float alpha_weight = float(ab_weight[head * HIDDEN + i]);
            float write_weight = float(ab_weight[(HV + head) * HIDDEN + i]);
            #pragma unroll
            for (int token = 0; token < TOKENS; token++) {
                float input = float(x[(batch * TOKENS + token) * HIDDEN + i]);
                alpha_part[token] += input * alpha_weight;
                write_part[token] += input * write_weight;
            }
        }
        #pragma unroll
        for (int token = 0; token < TOKENS; token++) {
            float alpha_sum = simd_sum(alpha_part[token]);
            float write_sum = simd_sum(write_part[token]);
            if (lane == 0) {
                alpha_parts[token * SIMDGROUPS + simdgroup] = alpha_sum;
                write_parts[token * SIMDGROUPS + simdgroup] = write_sum;
            }
        }
    """,
    after="""
            uint part = token * SIMDGROUPS + lane;
            float alpha = simd_sum(lane < SIMDGROUPS ? alpha_parts[part] : 0.0f);
            float write = simd_sum(lane < SIMDGROUPS ? write_parts[part] : 0.0f);
    """,
)


# The state a row begins with: the place of its last token that counts.
_PICKED = "batch * PLACES + (PLACES == 1 ? 0 : last[batch])"


def _kernel(gates: _Gates, *, several: bool) -> MetalKernel:
    """One threadgroup per row and value head; a simdgroup updates every SIMDGROUPS-th row of the
    head's matrix, a lane PER_LANE neighbouring columns. Template: T activation type, W, HK, HV, DK,
    DV, SIMDGROUPS, HIDDEN, TOKENS fed to each row; with `several` also PLACES, of which a row
    begins with the one in `last`.

    The channels of a key head are convolved by each of its value heads and kept by the first. No
    row of a matrix needs another: all tokens are convolved, then all are fed to a row while it is
    in registers, then all outputs are normed, with two barriers whatever their number.
    """
    name = "delta_step_several" if several else "delta_step"
    return MetalKernel(
        name=f"{name}_{gates.name}",
        inputs=(
            "qkvz",
            *gates.inputs,
            *(("last",) if several else ()),
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
        constexpr int INPUTS = CHANNELS + HV * DV;
        constexpr int MIXED = 2 * DK + DV;  // channels that a threadgroup convolves
        constexpr int PER_LANE = (DK + 31) / 32;
        constexpr int ROWS = (DV + SIMDGROUPS - 1) / SIMDGROUPS;
        constexpr int VALUE_HEADS_PER_KEY = HV / HK;
        constexpr bool EVEN = DK % 32 == 0;
        uint batch = threadgroup_position_in_grid.z;
        uint head = threadgroup_position_in_grid.y;
        uint key_head = head / VALUE_HEADS_PER_KEY;
        uint lane = thread_index_in_simdgroup;
        uint simdgroup = simdgroup_index_in_threadgroup;
        uint from = {_PICKED if several else "batch"};
        uint tail = from * (W - 1) * CHANNELS;
        threadgroup float queries[TOKENS * DK];
        threadgroup float keys[TOKENS * DK];
        threadgroup float values[TOKENS * DV];
        threadgroup float outputs[TOKENS * DV];

        for (uint i = thread_index_in_threadgroup; i < TOKENS * MIXED; i += SIMDGROUPS * 32) {{
            uint token = TOKENS == 1 ? 0 : i / MIXED;
            uint c = TOKENS == 1 ? i : i % MIXED;
            bool of_key = c < 2 * DK;
            uint channel = c < DK ? key_head * DK + c
                : of_key ? HK * DK + key_head * DK + (c - DK)
                         : 2 * HK * DK + head * DV + (c - 2 * DK);
            bool keep = !of_key || head % VALUE_HEADS_PER_KEY == 0;
            uint kept = (batch * TOKENS + token) * (W - 1) * CHANNELS;
            float sum = 0;
            for (int w = 0; w < W; w++) {{
                uint place = token + w;  // in the tail, and then in what came
                T input = place < W - 1
                    ? conv_tail[tail + place * CHANNELS + channel]
                    : qkvz[(batch * TOKENS + place - (W - 1)) * INPUTS + channel];
                sum += float(input) * float(taps[w * CHANNELS + channel]);
                if (w > 0 && keep) new_tail[kept + (w - 1) * CHANNELS + channel] = input;
            }}
            sum *= sigmoid_of(sum);
            if (c < DK) queries[token * DK + c] = sum;
            else if (of_key) keys[token * DK + c - DK] = sum;
            else values[token * DV + c - 2 * DK] = sum;
        }}
        {gates.before}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        float q[TOKENS][PER_LANE];
        float k[TOKENS][PER_LANE];
        float decay[TOKENS];
        float beta[TOKENS];
        #pragma unroll
        for (int token = 0; token < TOKENS; token++) {{
            {gates.after}
            float q_squares = 0;
            float k_squares = 0;
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {{
                uint i = lane * PER_LANE + n;
                q[token][n] = i < DK ? queries[token * DK + i] : 0.0f;
                k[token][n] = i < DK ? keys[token * DK + i] : 0.0f;
                q_squares += q[token][n] * q[token][n];
                k_squares += k[token][n] * k[token][n];
            }}
            float q_scale = metal::precise::rsqrt(simd_sum(q_squares) + 1e-6f)
                * metal::precise::rsqrt(float(DK));
            float k_scale = metal::precise::rsqrt(simd_sum(k_squares) + 1e-6f);
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {{
                q[token][n] *= q_scale;
                k[token][n] *= k_scale;
            }}
            float rate = decay_rate[head] * softplus_of(alpha + dt_bias[head]);
            decay[token] = metal::precise::exp(-rate);
            beta[token] = sigmoid_of(write);
        }}

        #pragma unroll
        for (int r = 0; r < ROWS; r++) {{
            uint row = r * SIMDGROUPS + simdgroup;
            bool there = DV % SIMDGROUPS == 0 || row < DV;
            uint at = ((from * HV + head) * DV + row) * DK + lane * PER_LANE;
            float state[PER_LANE];
            #pragma unroll
            for (int n = 0; n < PER_LANE; n++) {{
                bool inside = there && (EVEN || lane * PER_LANE + n < DK);
                state[n] = inside ? recurrent[at + n] : 0.0f;
            }}
            #pragma unroll
            for (int token = 0; token < TOKENS; token++) {{
                uint to = ((batch * TOKENS + token) * HV + head) * DV + row;
                float recalled = 0;
                #pragma unroll
                for (int n = 0; n < PER_LANE; n++) {{
                    state[n] *= decay[token];
                    recalled += state[n] * k[token][n];
                }}
                recalled = simd_sum(recalled);
                float delta = there ? (values[token * DV + row] - recalled) * beta[token] : 0.0f;
                float read = 0;
                #pragma unroll
                for (int n = 0; n < PER_LANE; n++) {{
                    state[n] += delta * k[token][n];
                    read += state[n] * q[token][n];
                    bool inside = there && (EVEN || lane * PER_LANE + n < DK);
                    if (inside) new_recurrent[to * DK + lane * PER_LANE + n] = state[n];
                }}
                read = simd_sum(read);
                if (there && lane == 0) outputs[token * DV + row] = read;
            }}
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);

        #pragma unroll
        for (int token = 0; token < TOKENS; token++) {{
            uint fed = batch * TOKENS + token;
            float squares = 0;
            for (uint i = lane; i < DV; i += 32) {{
                squares += outputs[token * DV + i] * outputs[token * DV + i];
            }}
            float scale = metal::precise::rsqrt(simd_sum(squares) / DV + eps);
            for (uint i = thread_index_in_threadgroup; i < DV; i += SIMDGROUPS * 32) {{
                float z = float(qkvz[fed * INPUTS + CHANNELS + head * DV + i]);
                float normed = outputs[token * DV + i] * scale * float(norm[i]);
                out[(fed * HV + head) * DV + i] = static_cast<T>(normed * z * sigmoid_of(z));
            }}
        }}
    """,
    )


# By where the gates come from: GIVEN to the kernel, or COMPUTED in it.
KERNELS = {gates.name: _kernel(gates, several=False) for gates in (_GIVEN, _COMPUTED)}
SEVERAL = {gates.name: _kernel(gates, several=True) for gates in (_GIVEN, _COMPUTED)}
