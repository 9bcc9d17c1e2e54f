"""Qwen3.6-MoE's network in torch, for training the demo on a CPU.

Same parameters, names and numbers as transformers' `Qwen3_5MoeForCausalLM` (a test compares the
logits), but the delta rule is solved per chunk by matrix products and every expert runs once per
step on the tokens routed to it.
Shapes: B batch, T tokens, D hidden, H heads, K key size, V value size, E experts.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config

CHUNK = 64  # tokens per chunk of the delta rule


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return y * (1.0 + self.weight)


class GatedNorm(nn.Module):
    """rms(x) * weight * silu(gate), the norm after the delta rule."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return y * self.weight * F.silu(gate.float())


def delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule over whole sequences.

    q, k: [B, H, T, K] (normalised, q scaled); v: [B, H, T, V]; g (log decay), beta: [B, H, T].
    Returns [B, H, T, V]. Everything in fp32.
    """
    length = q.shape[2]
    pad = -length % CHUNK
    if pad:
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        g, beta = (F.pad(x, (0, pad)) for x in (g, beta))
    q, k, v = (x.unflatten(2, (-1, CHUNK)) for x in (q, k, v))
    g = g.unflatten(2, (-1, CHUNK)).cumsum(-1)
    beta = beta.unflatten(2, (-1, CHUNK)).unsqueeze(-1)
    decay = (g.unsqueeze(-1) - g.unsqueeze(-2)).tril().exp().tril()  # [.., C, C]
    kb = k * beta
    lower = (kb @ k.transpose(-1, -2) * decay).tril(-1)
    grown = g.exp().unsqueeze(-1)
    right = torch.cat((v * beta, kb * grown), -1)
    # (1 + L) x = r has one solution; L is strictly lower triangular
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    new, seen = solved.split((v.shape[-1], k.shape[-1]), -1)
    inner = q @ k.transpose(-1, -2) * decay
    q = q * grown
    last = g[..., -1:]
    k = (k * (last - g).exp().unsqueeze(-1)).transpose(-1, -2)
    fade = last.exp().unsqueeze(-1)
    state = v.new_zeros(*v.shape[:2], k.shape[-2], v.shape[-1])
    outputs = []
    for n in range(q.shape[2]):
        fresh = new[:, :, n] - seen[:, :, n] @ state
        outputs.append(q[:, :, n] @ state + inner[:, :, n] @ fresh)
        state = state * fade[:, :, n] + k[:, :, n] @ fresh
    return torch.stack(outputs, 2).flatten(2, 3)[:, :, :length]


class GatedDeltaNet(nn.Module):
    """Linear attention with a short convolution and the gated delta rule."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        keys = c.linear_num_key_heads * c.linear_key_head_dim
        values = c.linear_num_value_heads * c.linear_value_head_dim
        self.sizes = (keys, keys, values)
        self.in_proj_qkv = nn.Linear(c.hidden_size, 2 * keys + values, bias=False)
        self.in_proj_z = nn.Linear(c.hidden_size, values, bias=False)
        self.in_proj_b = nn.Linear(c.hidden_size, c.linear_num_value_heads, bias=False)
        self.in_proj_a = nn.Linear(c.hidden_size, c.linear_num_value_heads, bias=False)
        channels = 2 * keys + values
        self.conv1d = nn.Conv1d(
            channels, channels, c.linear_conv_kernel_dim, groups=channels, bias=False
        )
        self.A_log = nn.Parameter(torch.empty(c.linear_num_value_heads).uniform_(1, 8).log())
        dt = torch.empty(c.linear_num_value_heads).uniform_(-6.9, -2.3).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.norm = GatedNorm(c.linear_value_head_dim, c.rms_norm_eps)
        self.out_proj = nn.Linear(values, c.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        c, length = self.c, x.shape[1]
        kernel = self.conv1d.weight[:, 0]  # [channels, 4]
        u = F.pad(self.in_proj_qkv(x).float(), (0, 0, kernel.shape[1] - 1, 0))
        mixed = sum(u[:, j : j + length] * kernel[:, j] for j in range(kernel.shape[1]))
        q, k, v = F.silu(mixed).split(self.sizes, -1)  # pyright: ignore[reportArgumentType]
        q, k = (y.unflatten(-1, (c.linear_num_key_heads, -1)).transpose(1, 2) for y in (q, k))
        v = v.unflatten(-1, (c.linear_num_value_heads, -1)).transpose(1, 2)
        q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + 1e-6) * c.linear_key_head_dim**-0.5
        k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + 1e-6)
        group = c.linear_num_value_heads // c.linear_num_key_heads
        q, k = q.repeat_interleave(group, 1), k.repeat_interleave(group, 1)
        beta = self.in_proj_b(x).float().sigmoid().transpose(1, 2)
        g = -self.A_log.exp() * F.softplus(self.in_proj_a(x).float() + self.dt_bias)
        with torch.autocast("cpu", enabled=False):
            o = delta_rule(q, k, v, g.transpose(1, 2), beta).transpose(1, 2)  # [B, T, H, V]
        z = self.in_proj_z(x).unflatten(-1, (c.linear_num_value_heads, -1))
        return self.out_proj(self.norm(o, z).flatten(2))


class Attention(nn.Module):
    """Causal attention with grouped keys, partial RoPE and a sigmoid output gate per head."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.hidden_size, c.num_attention_heads * c.head_dim * 2, bias=False)
        self.k_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.hidden_size, c.num_key_value_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_attention_heads * c.head_dim, c.hidden_size, bias=False)
        self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)

    def rotate(self, x: Tensor) -> Tensor:
        """RoPE on the first quarter of the head; x: [B, H, T, head_dim]."""
        size = int(self.c.head_dim * self.c.partial_rotary_factor)
        half = torch.arange(0, size, 2, dtype=torch.float32)
        angles = torch.arange(x.shape[2]).unsqueeze(1) * self.c.rope_theta ** (-half / size)
        cos, sin = angles.cos(), angles.sin()
        a, b, rest = x.split((size // 2, size // 2, x.shape[-1] - size), -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)

    def forward(self, x: Tensor) -> Tensor:
        c = self.c
        q, gate = self.q_proj(x).unflatten(-1, (c.num_attention_heads, -1)).chunk(2, -1)
        k = self.k_proj(x).unflatten(-1, (c.num_key_value_heads, -1))
        v = self.v_proj(x).unflatten(-1, (c.num_key_value_heads, -1)).transpose(1, 2)
        q = self.rotate(self.q_norm(q).transpose(1, 2)).to(v.dtype)
        k = self.rotate(self.k_norm(k).transpose(1, 2)).to(v.dtype)
        group = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        return self.o_proj((o * gate.sigmoid()).flatten(2))


class SwiGLU(nn.Module):
    """The shared expert."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """All routed experts, fused as in the original checkpoint."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        shape = (c.num_experts, 2 * c.moe_intermediate_size, c.hidden_size)
        self.gate_up_proj = nn.Parameter(torch.empty(shape))
        self.down_proj = nn.Parameter(torch.empty(shape[0], c.hidden_size, c.moe_intermediate_size))

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """x: [N, D]; chosen, weights: [N, top]. Each expert runs once, on its own rows."""
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=len(self.down_proj)).tolist()
        rows = order // chosen.shape[1]
        parts = []
        for e, part in enumerate(x[rows].split(counts)):
            gate, up = F.linear(part, self.gate_up_proj[e]).chunk(2, -1)
            parts.append(F.linear(F.silu(gate) * up, self.down_proj[e]))
        y = torch.cat(parts) * weights.flatten()[order].unsqueeze(1).to(x.dtype)
        return torch.zeros_like(y[: len(x)]).index_add(0, rows, y)


class SparseMoe(nn.Module):
    """Top-k routed experts plus a gated shared expert."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.c = c
        self.gate = nn.Linear(c.hidden_size, c.num_experts, bias=False)
        self.experts = Experts(c)
        self.shared_expert = SwiGLU(c.hidden_size, c.shared_expert_intermediate_size)
        self.shared_expert_gate = nn.Linear(c.hidden_size, 1, bias=False)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        probabilities = self.gate(flat).float().softmax(-1)
        weights, chosen = probabilities.topk(self.c.num_experts_per_tok)
        weights = weights / weights.sum(-1, keepdim=True)
        if self.training:  # the usual load balancing loss, 1 when even
            load = torch.bincount(chosen.flatten(), minlength=self.c.num_experts) / chosen.numel()
            self.balance = (load * probabilities.mean(0)).sum() * self.c.num_experts
        if torch.is_autocast_enabled("cpu"):
            flat = flat.bfloat16()
        y = self.experts(flat, chosen, weights)
        y = y + self.shared_expert_gate(flat).sigmoid() * self.shared_expert(flat)
        return y.view(x.shape)


class Layer(nn.Module):
    def __init__(self, c: Config, index: int) -> None:
        super().__init__()
        if c.is_attention(index):
            self.self_attn = Attention(c)
        else:
            self.linear_attn = GatedDeltaNet(c)
        self.mixer = "self_attn" if c.is_attention(index) else "linear_attn"
        self.mlp = SparseMoe(c)
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + getattr(self, self.mixer)(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)


class Network(nn.Module):
    """Token ids [B, T] to logits; parameter names as in the original checkpoint."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.model = Trunk(c)
        self.lm_head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Small residual branches and a small head, so that the first steps are calm."""
        for name, parameter in self.named_parameters():
            if "embed_tokens" in name:
                nn.init.normal_(parameter, std=0.5)
            elif "lm_head" in name:
                nn.init.normal_(parameter, std=0.02)
            elif "conv1d" in name:
                nn.init.uniform_(parameter, -0.5, 0.5)
            elif parameter.ndim >= 2:
                small = any(
                    part in name for part in ("o_proj", "out_proj", "down_proj", "gate.weight")
                )
                nn.init.normal_(
                    parameter, std=(0.2 if small else 1.0) * parameter.shape[-1] ** -0.5
                )

    def hidden(self, ids: Tensor) -> Tensor:
        """[B, T] -> [B, T, D], after the final norm."""
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x)
        return self.model.norm(x)

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.hidden(ids))

    def balance(self) -> Tensor:
        """Mean load balancing loss of the last forward."""
        return torch.stack([layer.mlp.balance for layer in self.model.layers]).mean()  # type: ignore[union-attr]
