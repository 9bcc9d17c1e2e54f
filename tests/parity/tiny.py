"""Tiny random checkpoints in the original layout.

Knows the sizes, the seeded weights and the file format. The tensor names and shapes come from
transformers' own class, so they are not ours to get wrong. Knows nothing about mlx or `model`.

Residual branches are damped: an undamped random network is chaotic and amplifies the last bit of
every sum to a visible difference, which would measure the seed rather than the code.
"""

# torch, transformers and mlx-lm are not in the environment that is type-checked.
# pyright: reportMissingImports=false

import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig

from tests.parity.tokenizer import write_tokenizer

BRANCH_ENDS = ("o_proj.weight", "out_proj.weight", "down_proj", "down_proj.weight")
DAMPING = 0.25
LOGIT_SCALE = 3.0


@dataclass(frozen=True, slots=True)
class TinyModel:
    """One checkpoint to compare on: its sizes, the seed of its weights and the tokens to feed."""

    name: str
    seed: int
    text: dict[str, Any]
    lengths: tuple[int, ...]
    schemes: tuple[str, ...]
    shards: int = 1
    extras: bool = False  # vision and MTP tensors, which a text model sets aside


def _text_config(layers: int, interval: int, rotary_half: int, **sizes: Any) -> dict[str, Any]:
    kinds = [
        "full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(layers)
    ]
    third = rotary_half // 3
    return {
        "model_type": "qwen3_5_moe_text",
        "dtype": "bfloat16",
        "num_hidden_layers": layers,
        "full_attention_interval": interval,
        "layer_types": kinds,
        "attn_output_gate": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "linear_conv_kernel_dim": 4,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 4096,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000,
            "partial_rotary_factor": 0.25,
            "mrope_section": [rotary_half - 2 * third, third, third],
            "mrope_interleaved": True,
        },
        "partial_rotary_factor": 0.25,
        "tie_word_embeddings": False,
        "eos_token_id": 256,
        **sizes,
    }


# The published model's proportions: value heads twice the key heads, every fourth layer attention.
PLAIN = TinyModel(
    name="plain",
    seed=11,
    text=_text_config(
        layers=8,
        interval=4,
        rotary_half=8,
        hidden_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        num_experts=16,
        num_experts_per_tok=4,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        vocab_size=512,
    ),
    lengths=(290, 150),
    schemes=("mxfp8", "affine8", "ud"),
    shards=2,
    extras=True,
)

# Nothing a power of two: a size that is only right by coincidence shows here. The head is tied.
ODD = TinyModel(
    name="odd",
    seed=12,
    text=_text_config(
        layers=7,
        interval=3,
        rotary_half=6,
        hidden_size=96,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=48,
        linear_num_key_heads=2,
        linear_num_value_heads=6,
        linear_key_head_dim=32,
        linear_value_head_dim=64,
        num_experts=12,
        num_experts_per_tok=3,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=96,
        vocab_size=509,
        tie_word_embeddings=True,
    ),
    lengths=(211, 610),
    schemes=("mxfp8",),
)

# Small enough to be committed.
GOLDEN = TinyModel(
    name="tiny",
    seed=13,
    text=_text_config(
        layers=4,
        interval=4,
        rotary_half=4,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        vocab_size=288,
    ),
    lengths=(200, 420),
    schemes=("ud",),
)

LIVE = (PLAIN, ODD)


def tokens(tiny: TinyModel) -> list[list[int]]:
    """The sequences to feed: random byte tokens, the same for the same seed."""
    random = np.random.default_rng(tiny.seed)
    return [random.integers(0, 256, length).tolist() for length in tiny.lengths]


def build(tiny: TinyModel) -> Qwen3_5MoeForCausalLM:
    """transformers' network with seeded weights, rounded to bfloat16 and held in float32."""
    config = Qwen3_5MoeTextConfig(**{k: v for k, v in tiny.text.items() if k != "dtype"})
    config._attn_implementation = "eager"
    network = Qwen3_5MoeForCausalLM(config).to(torch.float32).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            values = torch.from_numpy(_weights(tiny, name, tuple(parameter.shape)))
            parameter.copy_(values.to(torch.bfloat16))
    return network


def write_original(
    tiny: TinyModel, network: Qwen3_5MoeForCausalLM, folder: Path, dtype: torch.dtype
) -> None:
    """Write `network` as the model's authors publish theirs: nested config, fused experts."""
    folder.mkdir(parents=True)
    arrays = {
        _original_name(name): parameter.detach().to(dtype).contiguous()
        for name, parameter in network.named_parameters()
        if not (tiny.text["tie_word_embeddings"] and name == "lm_head.weight")
    }
    if tiny.extras:
        arrays["model.visual.pos_embed.weight"] = torch.zeros(4, 8, dtype=dtype)
        arrays["mtp.norm.weight"] = torch.zeros(tiny.text["hidden_size"], dtype=dtype)
    _write_shards(arrays, folder, tiny.shards)
    text = {**tiny.text, "dtype": str(dtype).removeprefix("torch.")}
    config = {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": tiny.text["tie_word_embeddings"],
        "text_config": text,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    write_tokenizer(folder)


def _weights(tiny: TinyModel, name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng([tiny.seed, zlib.crc32(name.encode())])
    normal = random.standard_normal(shape, dtype=np.float32)
    if name.endswith("A_log"):
        return np.log(random.uniform(0.05, 16, shape)).astype(np.float32)
    if name.endswith("dt_bias"):  # from forgetting at once to remembering hundreds of tokens
        return random.uniform(-6, 1, shape).astype(np.float32)
    if name.endswith("linear_attn.norm.weight"):
        return 1 + 0.1 * normal
    if name.endswith("norm.weight"):
        return 0.2 * normal  # stored as the difference from one
    if name.endswith("conv1d.weight"):
        return 0.5 * normal
    if name.endswith("embed_tokens.weight"):
        return _stream_scale(tiny) * normal
    scale = 1 / math.sqrt(shape[-1])
    if name.endswith(BRANCH_ENDS):
        scale *= DAMPING * _stream_scale(tiny)
    if name == "lm_head.weight":
        scale *= LOGIT_SCALE
    return scale * normal


def _stream_scale(tiny: TinyModel) -> float:
    """Size of the residual stream: an embedding that is also the head sets that of the logits."""
    tied = tiny.text["tie_word_embeddings"]
    return LOGIT_SCALE / math.sqrt(tiny.text["hidden_size"]) if tied else 1.0


def _original_name(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def _write_shards(arrays: dict[str, torch.Tensor], folder: Path, count: int) -> None:
    if count == 1:
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(arrays)
    places: dict[str, str] = {}
    for i in range(count):
        file = f"model-{i + 1:05}-of-{count:05}.safetensors"
        part = {name: arrays[name] for name in names[i::count]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    size = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
