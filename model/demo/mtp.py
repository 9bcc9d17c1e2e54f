"""The demo's MTP head in torch, and the committed trunk it is trained behind.

The head as in the original checkpoint (`mtp.*`): [norm(embedding of the next token), norm(hidden)]
through one matrix, one attention layer with experts, a norm; embedding and output head are the
trunk's. `hidden` is the trunk's after its final norm, or what the head itself made of the token
before.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import HEAD, name_head
from .config import Config
from .network import Layer, Network, RMSNorm


class MtpHead(nn.Module):
    """Predicts the token after the next one; parameter names as in the original checkpoint."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * c.hidden_size, c.hidden_size, bias=False)
        self.pre_fc_norm_embedding = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.pre_fc_norm_hidden = RMSNorm(c.hidden_size, c.rms_norm_eps)
        attention = next(i for i in range(c.num_hidden_layers) if c.is_attention(i))
        self.layers = nn.ModuleList([Layer(c, attention)])
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                small = any(part in name for part in ("o_proj", "down_proj", "gate.weight"))
                std = (0.2 if small else 1.0) * parameter.shape[-1] ** -0.5
                nn.init.normal_(parameter, std=std)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """hidden [B, T, D] after tokens and the embeddings [B, T, D] of the tokens that follow ->
        [B, T, D], normed: what the output head makes logits of."""
        both = (self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden))
        x = self.fc(torch.cat(both, -1))
        return self.norm(self.layers[0](x))


def committed_trunk(folder: Path, config: Config) -> Network:
    """The network of a checkpoint folder in the MLX layout, dequantized."""
    network = Network(config)
    network.load_state_dict(_original_names(folder))
    return network.eval().requires_grad_(requires_grad=False)


def _original_names(folder: Path) -> dict[str, Tensor]:
    """The inverse of checkpoint.mlx_weights, and of the quantization."""
    stored: Any = mx.load(str(folder / "model.safetensors"))
    how = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization"]
    default = {key: how[key] for key in ("group_size", "bits", "mode")}
    arrays: dict[str, mx.array] = {}
    for name, array in stored.items():
        module = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        scales = stored.get(f"{module}.scales")
        if scales is not None:
            biases = stored.get(f"{module}.biases")
            array = mx.dequantize(array, scales, biases, **how.get(module, default))
        arrays[name.removeprefix("language_model.")] = array.astype(mx.float32)
    state: dict[str, mx.array] = {}
    for name, array in arrays.items():
        if name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            array = array - 1
        if name.endswith("conv1d.weight"):
            array = array.swapaxes(1, 2)
        if name.endswith("switch_mlp.gate_proj.weight"):
            up = arrays[name.replace("gate_proj", "up_proj")]
            name = name.replace("switch_mlp.gate_proj.weight", "experts.gate_up_proj")
            array = mx.concatenate([array, up], axis=1)
        elif name.endswith("switch_mlp.up_proj.weight"):
            continue
        name = name.replace("switch_mlp.down_proj.weight", "experts.down_proj")
        state[name] = array
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def write_head(folder: Path, head: MtpHead) -> None:
    """The head in bf16, in the original layout, as a file of the folder."""
    state = head.state_dict()
    arrays = {f"mtp.{name}": mx.array(t.float().numpy()) for name, t in state.items()}
    arrays = {name: array.astype(mx.bfloat16) for name, array in sorted(arrays.items())}
    mx.save_safetensors(str(folder / HEAD), arrays, metadata={"format": "mlx"})
    name_head(folder)


def read_head(head: MtpHead, folder: Path) -> None:
    """The weights that write_head() wrote."""
    stored: Any = mx.load(str(folder / HEAD))
    arrays = {name.removeprefix("mtp."): array.astype(mx.float32) for name, array in stored.items()}
    head.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in arrays.items()})
