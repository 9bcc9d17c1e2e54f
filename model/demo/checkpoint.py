"""Writes the trained network as an MLX checkpoint folder, in plain bf16 or converted from that by
the model card's recipe, as `mxserve convert` does it.

Knows arrays under the original layout's names, not torch.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import Tokenizer

from model.convert.job import Job
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.source import open_source
from model.safetensors_files import INDEX

from .config import Config

HEAD = "mtp.safetensors"  # the MTP head; not named model*, which others load whole

RECIPE = RECIPES["ud-mxfp8"]
_SHIFTED = re.compile(
    r"(input_layernorm|post_attention_layernorm|model\.norm|q_norm|k_norm)\.weight$"
)


def mlx_weights(state: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The original names and layouts turned into those of an MLX checkpoint, still unquantized."""
    weights: dict[str, mx.array] = {}
    for name, array in state.items():
        name = f"language_model.{name}"
        if _SHIFTED.search(name):
            array = array + 1.0
        if name.endswith("conv1d.weight"):
            array = array.swapaxes(1, 2)
        if name.endswith("experts.gate_up_proj"):
            base = name.replace("experts.gate_up_proj", "switch_mlp")
            gate, up = mx.split(array, 2, axis=1)
            weights |= {f"{base}.gate_proj.weight": gate, f"{base}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            weights[name.replace("experts", "switch_mlp") + ".weight"] = array
        else:
            weights[name] = array
    return weights


def model_config(c: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json with the schema of Qwen3.6-35B-A3B, without its vision part and quantization."""
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
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_checkpoint(
    folder: Path,
    state: Mapping[str, mx.array],
    c: Config,
    tokenizer: Tokenizer,
    *,
    quantized: bool = True,
) -> None:
    """Writes the whole checkpoint folder from float weights in the original layout; the template is
    already a source file of the project.
    """
    if not quantized:
        _write_plain(folder, state, c, tokenizer)
        return
    with tempfile.TemporaryDirectory(prefix="mxserve-demo-") as work:
        plain, made = Path(work) / "bf16", Path(work) / "made"
        _write_plain(plain, state, c, tokenizer)
        Job(plan_conversion(open_source(plain), RECIPE), made, None, "off", "demo trainer").run(
            None
        )
        folder.mkdir(parents=True, exist_ok=True)
        for file in made.iterdir():
            shutil.copy(file, folder / file.name)


def _write_plain(
    folder: Path, state: Mapping[str, mx.array], c: Config, tokenizer: Tokenizer
) -> None:
    """The same in bf16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config(c, tokenizer)
    stored = {name: array.astype(mx.bfloat16) for name, array in mlx_weights(state).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), stored, metadata={"format": "mlx"})
    index = {
        "metadata": {
            "total_size": sum(array.nbytes for array in stored.values()),
            "total_parameters": sum(array.size for array in state.values()),
        },
        "weight_map": dict.fromkeys(sorted(stored), "model.safetensors"),
    }
    _write_json(folder / "model.safetensors.index.json", index)
    _write_json(folder / "config.json", config)
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


def name_head(folder: Path) -> None:
    """Names the MTP head, which lies in the folder in a file of its own, in index and config."""
    file = folder / INDEX
    index = json.loads(file.read_text(encoding="utf-8"))
    trunk = {name: file for name, file in index["weight_map"].items() if file != HEAD}
    arrays: dict[str, Any] = {}
    for name in sorted({*trunk.values(), HEAD}):
        arrays |= mx.load(str(folder / name))  # type: ignore[arg-type]
    head = dict.fromkeys((name for name in arrays if name not in trunk), HEAD)
    index["weight_map"] = dict(sorted((trunk | head).items()))
    index["metadata"]["total_size"] = sum(array.nbytes for array in arrays.values())
    _write_json(file, index)
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config["text_config"] |= {"mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}
    _write_json(file, config)
