"""The second half of the experts: SwiGLU, down projection of the chosen experts, their weighted sum
and the residual.

Shapes: N tokens, k experts per token (the shared one may be among them), I expert width, H hidden.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.quantized import AnyExpertLinear


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
    inner = (silu(gate) * up)[..., None, :]
    out = down(inner, experts, sorted_indices=False).squeeze(-2)
    out = (out * weights.astype(out.dtype)[..., None]).sum(axis=-2)
    return out if residual is None else residual + out
