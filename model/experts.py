"""The mixture of experts: router, routed experts, shared expert.

Formulas: p = softmax(W_g x) over all experts in float32, the k largest renormalised; the shared
expert is weighted by a sigmoid gate of its own (transformers' `modeling_qwen3_5_moe`). Where the
shared expert is stored like the routed ones, it is expert number E of the same matrices
(joining.py), which in a step every token chooses.

Shapes: B sequences, T tokens, N = B·T, E experts, k experts per token, I expert width.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.config import ModelConfig
from model.kernels import Kernels
from model.quantized import (
    AnyExpertLinear,
    AnyLinear,
    ArraySource,
    ExpertLinear,
    SeparateExpertLinears,
    SeparateLinears,
    expert_linear,
    expert_linears,
    is_stored,
    linear,
    linears,
    one,
)

# From this many tokens on, tokens are sorted by expert so that each expert's weights are read once.
SORT_FROM = 8


class Experts:
    """One mixture-of-experts block. `joined`: the shared expert is one of the others in a step."""

    def __init__(self, config: ModelConfig, source: ArraySource, path: str, *, on_gpu: bool):
        self.per_token = config.num_experts_per_tok
        self.on_gpu = on_gpu
        self.gates = linears(source, f"{path}.gates", f"{path}.gate", f"{path}.shared_expert_gate")
        self.gate_up: AnyExpertLinear | SeparateExpertLinears
        self.shared_gate_up: AnyLinear | SeparateLinears
        self.joined = is_stored(source, f"{path}.experts.gate_up_proj")
        if self.joined:
            gate_up = expert_linear(source, f"{path}.experts.gate_up_proj")
            self.gate_up, self.down = gate_up, expert_linear(source, f"{path}.experts.down_proj")
            self.shared_gate_up = gate_up.of(config.num_experts)
            self.shared_down = self.down.of(config.num_experts)
        else:
            self.gate_up = expert_linears(source, *_gate_up(f"{path}.switch_mlp"))
            self.down = expert_linear(source, f"{path}.switch_mlp.down_proj")
            self.shared_gate_up = linears(source, *_gate_up(f"{path}.shared_expert"))
            self.shared_down = linear(source, f"{path}.shared_expert.down_proj")

    def step(self, x: mx.array, residual: mx.array, kernels: Kernels) -> mx.array:
        """One token of each row: x and residual [B, 1, hidden] -> residual + experts(x).

        Nothing is read back, as a compiled step needs.
        """
        tokens, rest = x.reshape(-1, x.shape[-1]), residual.reshape(-1, x.shape[-1])
        logits = self.gates(tokens)
        if self.joined:
            experts, weights = kernels.router_top_k(logits, self.per_token, shared=True)
        else:
            experts, weights = kernels.router_top_k(logits[:, :-1], self.per_token)
            rest = rest + self._shared(tokens, logits[:, -1:])
        gate_up = self.gate_up(_alone(tokens), experts, sorted_indices=False)
        out = kernels.expert_down(gate_up.squeeze(-2), self.down, experts, weights, rest)
        return out.reshape(x.shape)

    def prefill(self, x: mx.array, kernels: Kernels) -> mx.array:
        """Any number of tokens: x [B, T, hidden] -> [B, T, hidden]."""
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.gates(tokens)
        experts, weights = kernels.router_top_k(logits[:, :-1], self.per_token)
        if tokens.shape[0] < SORT_FROM:
            routed = self._gathered(tokens, experts)
        elif not self.on_gpu and isinstance(self.gate_up, ExpertLinear):
            routed = self._one_expert_after_another(tokens, experts)
        else:
            routed = self._sorted(tokens, experts)
        out = (routed * weights.astype(x.dtype)[..., None]).sum(axis=1)
        return (out + self._shared(tokens, logits[:, -1:])).reshape(x.shape)

    def _shared(self, tokens: mx.array, gate: mx.array) -> mx.array:
        """What the shared expert says of tokens [N, hidden], given its gate [N, 1]."""
        return self.shared_down(_swiglu(self.shared_gate_up(tokens))) * mx.sigmoid(gate)

    def _feed_forward(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        """x [..., 1, hidden], experts [...] -> [..., 1, hidden]."""
        gate_up = self.gate_up(x, experts, sorted_indices=sorted_indices)
        return self.down(_swiglu(gate_up), experts, sorted_indices=sorted_indices)

    def _gathered(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """A few tokens: [N, hidden] -> [N, k, hidden]."""
        return self._feed_forward(_alone(tokens), experts, sorted_indices=False).squeeze(-2)

    def _sorted(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """Many tokens, sorted by expert: [N, hidden] -> [N, k, hidden]."""
        flat = experts.reshape(-1)
        order = mx.argsort(flat)
        x = tokens[order // experts.shape[-1]].reshape(-1, 1, tokens.shape[-1])
        out = self._feed_forward(x, flat[order], sorted_indices=True)
        return out.squeeze(1)[mx.argsort(order)].reshape(*experts.shape, -1)

    def _one_expert_after_another(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """The CPU's form for many tokens: one BLAS product per expert; gather_mm would make one per
        token. Reads the routing back.
        """
        assert isinstance(self.gate_up, ExpertLinear)  # noqa: S101 - the caller's check, for the type checker
        assert isinstance(self.down, ExpertLinear)  # noqa: S101
        flat = experts.reshape(-1)
        order = mx.argsort(flat)
        x = tokens[order // experts.shape[-1]]
        count = self.gate_up.weight.shape[0]
        ends = mx.cumsum((flat[:, None] == mx.arange(count)).sum(axis=0))
        parts = []
        start = 0
        for expert, end in enumerate(ends.tolist()):  # type: ignore[arg-type]
            if end > start:
                gate_up = x[start:end] @ one(self.gate_up.transposed, expert)
                parts.append(_swiglu(gate_up) @ one(self.down.transposed, expert))
                start = end
        out = mx.concatenate(parts, axis=0)
        return out[mx.argsort(order)].reshape(*experts.shape, -1)


def _alone(tokens: mx.array) -> mx.array:
    """[N, hidden] -> [N, 1, 1, hidden]. The strides of axes that expand_dims adds make Metal's
    products copy."""
    return tokens.reshape(-1, 1, 1, tokens.shape[-1])


def _swiglu(gate_up: mx.array) -> mx.array:
    """[..., 2·I], gate and then up -> [..., I]."""
    gate, up = mx.split(gate_up, 2, axis=-1)
    return silu(gate) * up


def _gate_up(path: str) -> tuple[str, str, str]:
    """Module paths of gate and up as one matrix, and as two."""
    return f"{path}.gate_up_proj", f"{path}.gate_proj", f"{path}.up_proj"
