"""The second half of the experts: SwiGLU, down projection of the chosen experts, their weighted sum
and the residual.

Shapes: N tokens, k experts per token (the shared one may be among them), I expert width, H hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from model.activations import silu
from model.kernels.metal import (
    MAX_THREADS,
    SIMD,
    Launch,
    MetalKernel,
    Runner,
    UnsupportedError,
    run,
)
from model.quantized import AnyExpertLinear, ExpertLinear

CHUNK = 16  # activations of a lane: one 16-byte load of packed weights, inside one group of scales
ROWS = 8  # outputs of a threadgroup: 256 threadgroups for a hidden size of 2048


def expert_down(
    gate_up: mx.array,
    down: AnyExpertLinear,
    experts: mx.array,
    weights: mx.array,
    residual: mx.array | None = None,
) -> mx.array:
    """gate_up [N, k, 2·I]: I of gate, then I of up; down: [I] -> [H] per expert, plain or packed;
    experts uint32 [N, k]; weights float32 [N, k]; residual [N, H] or None -> [N, H] in gate_up's
    dtype. Plain operations.
    """
    gate, up = mx.split(gate_up, 2, axis=-1)
    inner = (silu(gate) * up).reshape(*gate.shape[:-1], 1, -1)
    out = down(inner, experts, sorted_indices=False).squeeze(-2)
    out = (out * weights.astype(out.dtype)[..., None]).sum(axis=-2)
    return out if residual is None else residual + out


@dataclass(frozen=True, slots=True)
class _Form:
    """How a lane adds the product of its CHUNK activations and weights from `at` on."""

    name: str
    inputs: tuple[str, ...]
    dot: str
    header: str = ""


def _kernel(form: _Form, residual: bool) -> MetalKernel:
    """The kernel of one storage format. Template: T activation type, H, I, K chosen experts, ROWS
    of the output per threadgroup, GROUP inputs per scale.

    A threadgroup computes ROWS outputs of one token, a simdgroup the part of one expert: a lane
    holds CHUNK activations in registers and reads as many weights of every row.
    """
    start = "float(residual[token * H + row])" if residual else "0.0f"
    return MetalKernel(
        name=f"expert_down_{form.name}{'_residual' if residual else ''}",
        inputs=(
            "gate_up",
            *form.inputs,
            "experts",
            "weights",
            *(["residual"] if residual else []),
        ),
        outputs=("out",),
        header=form.header,
        source=f"""
        constexpr int CHUNK = {CHUNK};
        uint token = threadgroup_position_in_grid.z;
        uint block = threadgroup_position_in_grid.y * ROWS;
        uint lane = thread_index_in_simdgroup;
        uint place = simdgroup_index_in_threadgroup;
        uint pair = token * K + place;
        uint matrix = experts[pair] * H;
        threadgroup float parts[K * ROWS];

        float sums[ROWS];
        #pragma unroll
        for (int r = 0; r < ROWS; r++) sums[r] = 0;
        for (uint i = lane * CHUNK; i < I; i += 32 * CHUNK) {{
            float inner[CHUNK];
            float total = 0;
            #pragma unroll
            for (int n = 0; n < CHUNK; n++) {{
                bool inside = I % CHUNK == 0 || i + n < I;
                float g = inside ? float(gate_up[pair * 2 * I + i + n]) : 0.0f;
                float up = inside ? float(gate_up[pair * 2 * I + I + i + n]) : 0.0f;
                inner[n] = g / (1.0f + metal::precise::exp(-g)) * up;
                total += inner[n];
            }}
            #pragma unroll
            for (int r = 0; r < ROWS; r++) {{
                uint row = block + r;
                if (H % ROWS == 0 || row < H) {{
                    uint at = (matrix + row) * I + i;
                    {form.dot}
                }}
            }}
        }}
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {{
            float sum = simd_sum(sums[r]);
            if (lane == 0) parts[place * ROWS + r] = sum * weights[pair];
        }}
        threadgroup_barrier(mem_flags::mem_threadgroup);
        uint r = thread_index_in_threadgroup;
        uint row = block + r;
        if (r < ROWS && row < H) {{
            float sum = {start};
            for (int n = 0; n < K; n++) sum += parts[n * ROWS + r];
            out[token * H + row] = static_cast<T>(sum);
        }}
        """,
    )


_PLAIN = _Form(
    name="plain",
    inputs=("weight",),
    dot="""
                    float dot = 0;
                    #pragma unroll
                    for (int n = 0; n < CHUNK; n++) {
                        if (I % CHUNK == 0 || i + n < I) dot += inner[n] * float(weight[at + n]);
                    }
                    sums[r] += dot;
    """,
)

# Four E4M3 codes a word. Two at a time become halves of the same bits with a smaller exponent:
# what is left is a factor of 2^8. Code 127 is NaN: adding one carries into the exponent's top bit.
_MXFP8 = _Form(
    name="mxfp8",
    inputs=("weight", "scales"),
    header="""
        inline half2 e4m3_pair(uint codes) {
            uint magnitude = codes & 0x007f007fu;
            uint nan = ((magnitude + 0x00010001u) & 0x00800080u) << 7;
            return as_type<half2>((magnitude << 7) | nan | ((codes & 0x00800080u) << 8));
        }
        inline float dot_e4m3(uint word, float a, float b, float c, float d) {
            half2 even = e4m3_pair(word);
            half2 odd = e4m3_pair(word >> 8);
            return a * float(even.x) + b * float(odd.x) + c * float(even.y) + d * float(odd.y);
        }
        // 2^(bits - 127), whose smallest is subnormal.
        inline float e8m0(uint bits) {
            return as_type<float>(bits == 0u ? 0x00400000u : bits << 23);
        }
    """,
    dot="""
                    uint4 words = ((const device uint4*)weight)[at / 16];
                    float dot = dot_e4m3(words.x, inner[0], inner[1], inner[2], inner[3])
                        + dot_e4m3(words.y, inner[4], inner[5], inner[6], inner[7])
                        + dot_e4m3(words.z, inner[8], inner[9], inner[10], inner[11])
                        + dot_e4m3(words.w, inner[12], inner[13], inner[14], inner[15]);
                    sums[r] += dot * 256.0f * e8m0(scales[at / GROUP]);
    """,
)

_AFFINE8 = _Form(
    name="affine8",
    inputs=("weight", "scales", "biases"),
    header="""
        inline float dot_bytes(uint word, float a, float b, float c, float d) {
            return a * float(word & 0xffu) + b * float((word >> 8) & 0xffu)
                + c * float((word >> 16) & 0xffu) + d * float(word >> 24);
        }
    """,
    dot="""
                    uint4 words = ((const device uint4*)weight)[at / 16];
                    float dot = dot_bytes(words.x, inner[0], inner[1], inner[2], inner[3])
                        + dot_bytes(words.y, inner[4], inner[5], inner[6], inner[7])
                        + dot_bytes(words.z, inner[8], inner[9], inner[10], inner[11])
                        + dot_bytes(words.w, inner[12], inner[13], inner[14], inner[15]);
                    sums[r] += dot * float(scales[at / GROUP]) + total * float(biases[at / GROUP]);
    """,
)
_KERNELS = {
    (form.name, residual): _kernel(form, residual)
    for form in (_PLAIN, _MXFP8, _AFFINE8)
    for residual in (False, True)
}


def metal_expert_down(
    gate_up: mx.array,
    down: AnyExpertLinear,
    experts: mx.array,
    weights: mx.array,
    residual: mx.array | None = None,
    *,
    rows: int = ROWS,
    runner: Runner = run,
) -> mx.array:
    """`expert_down` in one launch of N · H / `rows` threadgroups of k simdgroups. Raises
    UnsupportedError.
    """
    tokens, chosen = experts.shape
    hidden, inner = down.weight.shape[-2], gate_up.shape[-1] // 2
    form, arrays, group = _parts(down)
    values = down.weight.shape[0] * hidden * inner
    if chosen > MAX_THREADS // SIMD or values >= 1 << 32 or weights.dtype != mx.float32:
        raise UnsupportedError(
            f"{chosen} experts per token with weights of {weights.dtype}, {values} values: "
            f"at most {MAX_THREADS // SIMD}, {mx.float32} and 2^32"
        )
    (out,) = runner(
        Launch(
            _KERNELS[form, residual is not None],
            inputs=(
                gate_up,
                *arrays,
                experts,
                weights,
                *([] if residual is None else [residual]),
            ),
            template=(
                ("T", gate_up.dtype),
                ("H", hidden),
                ("I", inner),
                ("K", chosen),
                ("ROWS", rows),
                ("GROUP", group),
            ),
            grid=(chosen * SIMD, -(-hidden // rows), tokens),
            threadgroup=(chosen * SIMD, 1, 1),
            outputs=(((tokens, hidden), gate_up.dtype),),
        )
    )
    return out


def _parts(down: AnyExpertLinear) -> tuple[str, tuple[mx.array, ...], int]:
    """Form, its arrays and the inputs that share a scale."""
    if isinstance(down, ExpertLinear):
        return "plain", (down.weight,), 1
    spec = down.spec
    if spec.mode == "mxfp8":
        return "mxfp8", (down.weight, down.scales), spec.group_size
    if spec.mode == "affine" and spec.bits == 8 and down.biases is not None:
        return "affine8", (down.weight, down.scales, down.biases), spec.group_size
    raise UnsupportedError(f"experts stored as {spec}: expected mxfp8 or affine with 8 bits")
