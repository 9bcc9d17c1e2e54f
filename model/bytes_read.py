"""Bytes that a decoded token reads: weights by part, recurrent state, and KV by context.

Arithmetic on sizes; nothing is read. Of the experts a token reads its own few and the shared one;
of the embedding one row. The recurrent state is read and written, and counted twice; KV are read
(writing one token's is nothing beside it), and activations stay in caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from model.draft_head import guessed_of
from model.geometry import Geometry, stored_parts
from model.tensors import TensorSpec, expected_mtp_tensors, expected_tensors

ITEM_BYTES = {"uint32": 4, "float32": 4, "bfloat16": 2, "uint8": 1}
PARTS: tuple[str, ...] = (
    "embedding",
    "DeltaNet projections",
    "DeltaNet output",
    "attention projections",
    "attention output",
    "experts",
    "shared experts",
    "routers",
    "norms",
    "head",
)
STATE = "recurrent state"
CONTEXTS = (0, 4096, 32_768, 131_072)


def weight_bytes(geometry: Geometry, *, dequantized: bool = False) -> dict[str, float]:
    """Part -> bytes of weights that one token reads; `dequantized`: as float32, as a CPU runs
    them."""
    found = dict.fromkeys(PARTS, 0.0)
    for name, size in tensor_bytes(geometry, dequantized=dequantized).items():
        found[part_of(name)] += size
    if geometry.config.tie_word_embeddings:
        table = "model.embed_tokens.weight"
        tensor = expected_tensors(geometry.config)[table]
        found["head"] += _stored(geometry, table, tensor, dequantized)
    return found


def tensor_bytes(geometry: Geometry, *, dequantized: bool = False) -> dict[str, float]:
    """Tensor -> bytes of it that one token reads; a tied head's reading is not in it."""
    return {
        name: _stored(geometry, name, tensor, dequantized) * _share(geometry, name)
        for name, tensor in expected_tensors(geometry.config).items()
    }


def guess_bytes(geometry: Geometry, guesses: int, controls: int) -> dict[str, float]:
    """Part -> bytes of weights and state that a step with `guesses` guesses reads beyond those of
    a step without, given the head in bfloat16, as the original repository has it, and `controls`
    control tokens behind the frequent ones (see model.draft_head)."""
    config, fed = geometry.config, guesses + 1
    table, per_guess, per_token = expected_mtp_tensors(config), 0.0, 0.0
    for name, tensor in table.items():
        size = prod(tensor.shape) * ITEM_BYTES["bfloat16"] * _share(geometry, name)
        if ".switch_mlp." in name:
            per_token += size
        else:
            per_guess += size
    weights = weight_bytes(geometry)
    part = guessed_of(config.vocab_size, controls) / config.vocab_size
    return {
        "experts of more tokens": guesses * (weights["experts"] + weights["embedding"]),
        # It sees what the step before accepted, then its own guesses.
        "MTP head": guesses * per_guess + (fed + guesses - 1) * per_token,
        "draft head": guesses * part * weights["head"],
        "state after each token": guesses * state_bytes(geometry) / 2,  # written, read once
    }


def state_bytes(geometry: Geometry, *, activation_bytes: int = 2) -> float:
    """Recurrent matrices (float32) and convolution tails, read and written."""
    config = geometry.config
    layers = sum(kind == "linear_attention" for kind in config.layer_types)
    values = config.linear_num_value_heads * config.linear_value_head_dim
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    matrices = values * config.linear_key_head_dim * 4
    tails = (config.linear_conv_kernel_dim - 1) * (2 * keys + values) * activation_bytes
    return 2.0 * layers * (matrices + tails)


def kv_bytes(geometry: Geometry, context: int, *, activation_bytes: int = 2) -> float:
    """Keys and values of `context` tokens, all attention layers."""
    config = geometry.config
    layers = sum(kind == "full_attention" for kind in config.layer_types)
    width = config.num_key_value_heads * config.head_dim
    return float(2 * layers * width * activation_bytes * context)


def total_bytes(parts: Mapping[str, float], state: float, kv: float) -> float:
    """All that one token reads."""
    return sum(parts.values()) + state + kv


def _stored(geometry: Geometry, name: str, tensor: TensorSpec, dequantized: bool) -> float:
    if dequantized or tensor.kind == "float32":
        return 4.0 * prod(tensor.shape)
    spec = geometry.specs.get(name.removesuffix(".weight")) if tensor.kind == "matrix" else None
    parts = stored_parts(tensor.shape, spec).values()
    return float(sum(prod(shape) * ITEM_BYTES[dtype] for shape, dtype in parts))


def _share(geometry: Geometry, name: str) -> float:
    """How much of a tensor one token reads."""
    config = geometry.config
    if name == "model.embed_tokens.weight":
        return 1 / config.vocab_size
    return config.num_experts_per_tok / config.num_experts if ".switch_mlp." in name else 1.0


def part_of(name: str) -> str:
    """Which of PARTS a tensor belongs to."""
    if name.startswith("model.embed_tokens"):
        return "embedding"
    if name.startswith("lm_head"):
        return "head"
    for mark, part in (
        (".linear_attn.out_proj", "DeltaNet output"),
        (".linear_attn.", "DeltaNet projections"),
        (".self_attn.o_proj", "attention output"),
        (".self_attn.", "attention projections"),
        (".switch_mlp.", "experts"),
        (".shared_expert.", "shared experts"),
        ("_layernorm", "norms"),
        ("model.norm", "norms"),
    ):
        if mark in name:
            return part
    return "routers"
