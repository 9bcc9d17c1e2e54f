"""Writes the trained network as an MLX checkpoint folder, quantized by the model card's recipe.

Experts, q/k/v, the delta rule's big in-projections and the shared expert are mxfp8 in groups of 32;
embeddings, head and gates affine 8 bit in groups of 64; everything that writes to the residual
stream, and all small tensors, stay bf16.
"""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .network import Config

AFFINE = {"group_size": 64, "bits": 8, "mode": "affine"}
MXFP8 = {"group_size": 32, "bits": 8, "mode": "mxfp8"}
_AFFINE = re.compile(r"(embed_tokens|lm_head|mlp\.gate|shared_expert_gate)$")
_MXFP8 = re.compile(
    r"(q_proj|k_proj|v_proj|in_proj_qkv|in_proj_z|switch_mlp\.\w+|shared_expert\.\w+_proj)$"
)
_SHIFTED = re.compile(
    r"(input_layernorm|post_attention_layernorm|model\.norm|q_norm|k_norm)\.weight$"
)


def recipe(module: str) -> dict[str, Any] | None:
    """How the weight of this module is stored; None is bf16."""
    if _AFFINE.search(module):
        return AFFINE
    return MXFP8 if _MXFP8.search(module) else None


def mlx_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original names and layouts turned into those of an MLX checkpoint, still unquantized."""
    weights: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = f"language_model.{name}"
        if _SHIFTED.search(name):
            tensor = tensor + 1.0
        if name.endswith("conv1d.weight"):
            tensor = tensor.movedim(2, 1)
        if name.endswith("experts.gate_up_proj"):
            base = name.replace("experts.gate_up_proj", "switch_mlp")
            gate, up = tensor.chunk(2, 1)
            weights |= {f"{base}.gate_proj.weight": gate, f"{base}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            weights[name.replace("experts", "switch_mlp") + ".weight"] = tensor
        else:
            weights[name] = tensor
    return weights


def quantize(weights: dict[str, Tensor]) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """(tensors as stored, the `quantization` section of config.json)."""
    stored: dict[str, mx.array] = {}
    section: dict[str, Any] = dict(AFFINE)
    for name, tensor in weights.items():
        array = mx.array(np.ascontiguousarray(tensor.detach().float().numpy())).astype(mx.bfloat16)
        module = name.removesuffix(".weight")
        how = recipe(module) if name.endswith(".weight") else None
        if how is None:
            stored[name] = array
            continue
        # The CPU rounds the shared exponent up; Metal's rounds to nearest and saturates.
        parts = mx.quantize(array, stream=mx.cpu, **how)
        for suffix, part in zip(("weight", "scales", "biases"), parts, strict=False):
            stored[f"{module}.{suffix}"] = part
        if how is not AFFINE:
            section[module] = dict(how)
    return stored, section


def dequantized(folder: Path) -> dict[str, Tensor]:
    """The stored weights as the torch network's state, to evaluate exactly what is stored."""
    stored: dict[str, mx.array] = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= mx.load(str(file))  # pyright: ignore[reportOperatorIssue]
    plain: dict[str, Tensor] = {}
    for name, array in stored.items():
        if name.endswith((".scales", ".biases")):
            continue
        module = name.removesuffix(".weight")
        if f"{module}.scales" in stored:
            how = recipe(module)
            if how is None:
                raise ValueError(
                    f"{folder}: {module} has scales but is not quantized by the recipe"
                )
            array = mx.dequantize(
                array,
                stored[f"{module}.scales"],
                stored.get(f"{module}.biases"),
                stream=mx.cpu,
                **how,
            )
        plain[name] = torch.from_numpy(np.array(array.astype(mx.float32)))
    state: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        if _SHIFTED.search(name):
            tensor = tensor - 1.0
        if name.endswith("conv1d.weight"):
            tensor = tensor.movedim(2, 1)
        if ".switch_mlp." in name:
            base = name.split("switch_mlp.")[0] + "experts."
            if "gate_proj" in name:
                up = plain[name.replace("gate_proj", "up_proj")]
                state[(base + "gate_up_proj").removeprefix("language_model.")] = torch.cat(
                    (tensor, up), 1
                )
            elif "down_proj" in name:
                state[(base + "down_proj").removeprefix("language_model.")] = tensor
            continue
        state[name.removeprefix("language_model.")] = tensor
    return state


def model_config(c: Config, tokenizer: Tokenizer, section: dict[str, Any]) -> dict[str, Any]:
    """config.json with the schema of Qwen3.6-35B-A3B, without its vision part."""
    token = tokenizer.token_to_id
    kinds = [
        "full_attention" if c.is_attention(i) else "linear_attention"
        for i in range(c.num_hidden_layers)
    ]
    text = {
        "model_type": "qwen3_5_moe_text", "dtype": "bfloat16", "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size, "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim, "attn_output_gate": True,
        "attention_bias": False, "attention_dropout": 0.0,
        "full_attention_interval": c.full_attention_interval, "layer_types": kinds,
        "linear_num_key_heads": c.linear_num_key_heads,
        "linear_num_value_heads": c.linear_num_value_heads,
        "linear_key_head_dim": c.linear_key_head_dim,
        "linear_value_head_dim": c.linear_value_head_dim,
        "linear_conv_kernel_dim": c.linear_conv_kernel_dim, "mamba_ssm_dtype": "float32",
        "num_experts": c.num_experts, "num_experts_per_tok": c.num_experts_per_tok,
        "moe_intermediate_size": c.moe_intermediate_size,
        "shared_expert_intermediate_size": c.shared_expert_intermediate_size,
        "router_aux_loss_coef": c.router_aux_loss_coef, "mlp_only_layers": [], "hidden_act": "silu",
        "rms_norm_eps": c.rms_norm_eps, "max_position_embeddings": c.max_position_embeddings,
        "partial_rotary_factor": c.partial_rotary_factor,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": c.rope_theta,
            "partial_rotary_factor": c.partial_rotary_factor,
            "mrope_section": [3, 3, 2], "mrope_interleaved": True,
        },
        "initializer_range": 0.02, "use_cache": True, "tie_word_embeddings": False,
        "bos_token_id": token("<|endoftext|>"), "eos_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    return {
        "architectures": ["Qwen3_5MoeForConditionalGeneration"],
        "model_type": "qwen3_5_moe",
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "tie_word_embeddings": False,
        "text_config": text,
        "quantization": section,
        "quantization_config": section,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_checkpoint(
    folder: Path, state: dict[str, Tensor], c: Config, tokenizer: Tokenizer
) -> None:
    """Writes the whole checkpoint folder; the template is already a source file of the project."""
    folder.mkdir(parents=True, exist_ok=True)
    stored, section = quantize(mlx_weights(state))
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "mlx"})
    size = sum(array.nbytes for array in stored.values())
    index = {
        "metadata": {
            "total_size": size,
            "total_parameters": sum(t.numel() for t in state.values()),
        },
        "weight_map": dict.fromkeys(sorted(stored), "model.safetensors"),
    }
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", model_config(c, tokenizer, section))
    end, stop = tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|im_end|>")
    _write_json(folder / "generation_config.json", {
        "bos_token_id": end, "pad_token_id": end, "eos_token_id": [stop, end],
        "do_sample": True, "temperature": 1.0, "top_k": 20, "top_p": 0.95,
    })  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(token): {
            "content": t.content, "lstrip": t.lstrip, "rstrip": t.rstrip,
            "normalized": t.normalized, "single_word": t.single_word, "special": t.special,
        }
        for token, t in sorted(tokenizer.get_added_tokens_decoder().items())
    }  # fmt: skip
    _write_json(folder / "tokenizer_config.json", {
        "added_tokens_decoder": added, "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_bos_token": False, "clean_up_tokenization_spaces": False, "errors": "replace",
        "model_max_length": c.max_position_embeddings,
    })  # fmt: skip
    template = Path(__file__).parent / "checkpoint" / "chat_template.jinja"
    if template.resolve() != (folder / "chat_template.jinja").resolve():
        shutil.copy(template, folder / "chat_template.jinja")
