"""The mixture of experts: router, routed experts, shared expert.

Formulas: p = softmax(W_g x) over all experts in float32, the k largest renormalised; the shared
expert is weighted by a sigmoid gate of its own (transformers' `modeling_qwen3_5_moe`).

Shapes: B sequences, T tokens, N = B·T, E experts, k experts per token.
"""

from __future__ import annotations

import mlx.core as mx

from model.activations import silu
from model.config import ModelConfig
from model.quantized import (
    AnyExpertLinear,
    AnyLinear,
    ArraySource,
    ExpertLinear,
    expert_linear,
    linear,
)

# From this many tokens on, tokens are sorted by expert so that each expert's weights are read once.
SORT_FROM = 8


class Experts:
    """One mixture-of-experts block."""

    def __init__(self, config: ModelConfig, source: ArraySource, path: str, *, on_gpu: bool):
        self.per_token = config.num_experts_per_tok
        self.on_gpu = on_gpu
        self.gate: AnyLinear = linear(source, f"{path}.gate")
        self.gate_proj: AnyExpertLinear = expert_linear(source, f"{path}.switch_mlp.gate_proj")
        self.up_proj: AnyExpertLinear = expert_linear(source, f"{path}.switch_mlp.up_proj")
        self.down_proj: AnyExpertLinear = expert_linear(source, f"{path}.switch_mlp.down_proj")
        self.shared_gate: AnyLinear = linear(source, f"{path}.shared_expert_gate")
        self.shared_gate_proj: AnyLinear = linear(source, f"{path}.shared_expert.gate_proj")
        self.shared_up_proj: AnyLinear = linear(source, f"{path}.shared_expert.up_proj")
        self.shared_down_proj: AnyLinear = linear(source, f"{path}.shared_expert.down_proj")

    def __call__(self, x: mx.array, *, decode: bool = False) -> mx.array:
        """x [B, T, hidden] -> [B, T, hidden].

        `decode` promises that nothing is read back, as a compiled step needs: on the CPU every
        batch is then gathered, whatever its size.
        """
        tokens = x.reshape(-1, x.shape[-1])
        experts, weights = self._route(tokens)
        if tokens.shape[0] < SORT_FROM or (decode and not self.on_gpu):
            routed = self._gathered(tokens, experts)
        elif not self.on_gpu and isinstance(self.down_proj, ExpertLinear):
            routed = self._one_expert_after_another(tokens, experts)
        else:
            routed = self._sorted(tokens, experts)
        routed = (routed * weights[..., None]).sum(axis=1)
        shared = self.shared_down_proj(
            silu(self.shared_gate_proj(tokens)) * self.shared_up_proj(tokens)
        )
        shared = shared * mx.sigmoid(self.shared_gate(tokens))
        return (routed + shared).reshape(x.shape)

    def _route(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """[N, hidden] -> expert ids [N, k] and their weights [N, k], which sum to one."""
        logits = self.gate(tokens).astype(mx.float32)
        experts = mx.argpartition(logits, kth=-self.per_token, axis=-1)[..., -self.per_token :]
        # Softmax over all, then renormalising the chosen, is the softmax over the chosen.
        weights = mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1)
        return experts, weights.astype(tokens.dtype)

    def _feed_forward(self, x: mx.array, experts: mx.array, *, sorted_indices: bool) -> mx.array:
        """x [..., 1, hidden], experts [...] -> [..., 1, hidden]."""
        gate = self.gate_proj(x, experts, sorted_indices=sorted_indices)
        up = self.up_proj(x, experts, sorted_indices=sorted_indices)
        return self.down_proj(silu(gate) * up, experts, sorted_indices=sorted_indices)

    def _gathered(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """A few tokens: [N, hidden] -> [N, k, hidden]."""
        x = mx.expand_dims(tokens, (1, 2))
        return self._feed_forward(x, experts, sorted_indices=False).squeeze(-2)

    def _sorted(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """Many tokens, sorted by expert: [N, hidden] -> [N, k, hidden]."""
        flat = experts.reshape(-1)
        order = mx.argsort(flat)
        x = tokens[order // self.per_token][:, None]
        out = self._feed_forward(x, flat[order], sorted_indices=True)
        return out.squeeze(1)[mx.argsort(order)].reshape(*experts.shape, -1)

    def _one_expert_after_another(self, tokens: mx.array, experts: mx.array) -> mx.array:
        """The CPU's form for many tokens: one BLAS product per expert; gather_mm would make one per
        token.

        Reads the routing back, so it cannot run inside a compiled step: see `decode`.
        """
        assert isinstance(self.gate_proj, ExpertLinear)  # noqa: S101 - the caller's check, for the type checker
        assert isinstance(self.up_proj, ExpertLinear)  # noqa: S101
        assert isinstance(self.down_proj, ExpertLinear)  # noqa: S101
        flat = experts.reshape(-1)
        order = mx.argsort(flat)
        x = tokens[order // self.per_token]
        count = self.gate_proj.weight.shape[0]
        ends = mx.cumsum((flat[:, None] == mx.arange(count)).sum(axis=0))
        parts = []
        start = 0
        for expert, end in enumerate(ends.tolist()):  # type: ignore[arg-type]
            if end > start:
                rows = x[start:end]
                gate = rows @ self.gate_proj.weight[expert].T
                up = rows @ self.up_proj.weight[expert].T
                parts.append((silu(gate) * up) @ self.down_proj.weight[expert].T)
                start = end
        out = mx.concatenate(parts, axis=0)
        return out[mx.argsort(order)].reshape(*experts.shape, -1)
