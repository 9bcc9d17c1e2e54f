"""Random weights that make a calm network: logits of ordinary size that small errors do not upset.

A tensor's values depend on the seed and its name only, so every storage format of one seed holds
the same network. Knows names and shapes in the MLX layout; writes nothing.
"""

import hashlib
import re
from collections.abc import Mapping
from math import prod
from typing import Any

import mlx.core as mx

from .tensors import Shape

# A tensor is made of one random block, repeated: block i is turned by i * TURN columns, so that no
# two rows are equal and yet every quantization group stays whole.
BLOCK_VALUES = 1 << 24
TURN = 64

_DAMPING = 0.25  # of what residual branches add; without it a random network is chaotic
_BRANCH_ENDS = re.compile(r"(o_proj|out_proj|down_proj)\.weight$")
_HEAD_STD = 3.0

_FAMILY: dict[str, Any] = {
    "model_type": "qwen3_5_moe_text",
    "attention_bias": False,
    "attn_output_gate": True,
    "dtype": "bfloat16",
    "full_attention_interval": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "linear_conv_kernel_dim": 4,
    "mamba_ssm_dtype": "float32",
    "mlp_only_layers": [],
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10_000_000,
        "partial_rotary_factor": 0.25,
        "mrope_section": [3, 3, 2],
        "mrope_interleaved": True,
    },
}
GEOMETRIES: Mapping[str, dict[str, Any]] = {
    "tiny": _FAMILY
    | {
        "hidden_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
        "vocab_size": 2048,
        "max_position_embeddings": 32768,
    },
    "full": _FAMILY
    | {
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "vocab_size": 248_320,
        "max_position_embeddings": 262_144,
        "rope_parameters": _FAMILY["rope_parameters"] | {"mrope_section": [11, 11, 10]},
    },
}


def random_block(seed: int, name: str, shape: Shape) -> mx.array:
    """The first block of a tensor, float32 holding bfloat16 values: `shape` but for axis 0.

    Norms are those of the MLX layout, near 1, and exact in bfloat16 with 1 taken off or not.
    """
    rows = max(1, min(shape[0], BLOCK_VALUES // max(1, prod(shape[1:]))))
    block = (rows, *shape[1:])
    key = mx.random.key(_seed_of(seed, name))
    if name.endswith("norm.weight") or ".pre_fc_norm_" in name:
        return 1 + mx.round(mx.random.normal(block, key=key) * 0.1 * 128) / 128
    if name.endswith("A_log"):
        values = mx.log(mx.random.uniform(1, 16, block, key=key))
    elif name.endswith("dt_bias"):
        values = mx.random.uniform(-6, -1, block, key=key)
    else:
        values = mx.random.normal(block, scale=_std(name, shape), key=key)
    return values.astype(mx.bfloat16).astype(mx.float32)


def repeated(block: mx.array, rows: int, turn: int) -> mx.array:
    """A block repeated to `rows` rows, copy i turned by i * `turn` places of the last axis."""
    if block.shape[0] >= rows:
        return block
    count = -(-rows // block.shape[0])
    turned = [mx.roll(block, i * turn, -1) for i in range(count)]
    turned[-1] = turned[-1][: rows - (count - 1) * block.shape[0]]
    return mx.concatenate(turned)


def _std(name: str, shape: Shape) -> float:
    if name == "model.embed_tokens.weight":
        return 1.0
    if name.endswith("conv1d.weight"):
        return shape[1] ** -0.5
    std = shape[-1] ** -0.5
    if name == "lm_head.weight":
        return _HEAD_STD * std
    return _DAMPING * std if _BRANCH_ENDS.search(name) else std


def _seed_of(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def vision_config(text: Mapping[str, Any]) -> dict[str, int]:
    """A vision tower in proportion: the real one for the full width, two small blocks for less."""
    full = text["hidden_size"] == GEOMETRIES["full"]["hidden_size"]
    sizes = (27, 1152, 4304, 2304) if full else (2, 32, 64, 16)
    names = ("depth", "hidden_size", "intermediate_size", "num_position_embeddings")
    fixed = {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3}
    return dict(zip(names, sizes, strict=True)) | fixed | {"out_hidden_size": text["hidden_size"]}


def vision_shapes(vision: Mapping[str, int], *, original: bool) -> dict[str, Shape]:
    """Name without prefix -> shape of the vision tower's tensors."""
    size, inner = vision["hidden_size"], vision["intermediate_size"]
    channels, time, patch = (
        vision[k] for k in ("in_channels", "temporal_patch_size", "patch_size")
    )
    merged = size * vision["spatial_merge_size"] ** 2
    square = (patch, patch)
    linears: dict[str, Shape] = {}
    for i in range(vision["depth"]):
        block = f"blocks.{i}"
        linears |= {f"{block}.attn.qkv": (3 * size, size), f"{block}.attn.proj": (size, size)}
        linears |= {
            f"{block}.mlp.linear_fc1": (inner, size),
            f"{block}.mlp.linear_fc2": (size, inner),
        }
        linears |= {f"{block}.norm1": (size,), f"{block}.norm2": (size,)}
    linears |= {"merger.norm": (size,), "merger.linear_fc1": (merged, merged)}
    linears["merger.linear_fc2"] = (vision["out_hidden_size"], merged)
    linears["patch_embed.proj"] = (
        (size, channels, time, *square) if original else (size, time, *square, channels)
    )
    shapes = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return shapes | {"pos_embed.weight": (vision["num_position_embeddings"], size)}


def mtp_shapes(layer: Mapping[str, Shape], hidden: int) -> dict[str, Shape]:
    """Name -> shape of the MTP tensors, given those of one original full-attention layer."""
    norms = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm")
    shapes: dict[str, Shape] = {f"mtp.{name}.weight": (hidden,) for name in norms}
    shapes["mtp.fc.weight"] = (hidden, 2 * hidden)
    return shapes | {f"mtp.layers.0.{name}": shape for name, shape in layer.items()}
