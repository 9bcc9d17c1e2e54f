"""config.json and generation_config.json, typed and checked.

Knows the keys of the Qwen3.5/3.6 mixture-of-experts family, old spellings included, and how a
quantization map names modules. Knows nothing about tensors, files of weights or arrays. What a
checkpoint says and this server cannot compute is refused here, with the key's path.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from .errors import CheckpointError
from .json_keys import Section

LayerType = Literal["linear_attention", "full_attention"]
QuantMode = Literal["affine", "mxfp8", "mxfp4", "nvfp4"]

_FIXED_QUANT: Mapping[str, tuple[int, int]] = {"mxfp8": (8, 32), "mxfp4": (4, 32), "nvfp4": (4, 16)}
AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
_MOST_LAYERS = 1000  # a slip of the pen, not a model
_MODEL_TYPES = ("qwen3_5_moe", "qwen3_5_moe_text")


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How a matrix is stored: `bits` per weight, one scale per `group_size` inputs."""

    bits: int
    group_size: int
    mode: QuantMode


@dataclass(frozen=True, slots=True)
class Quantization:
    """What config.json says about stored precision.

    `modules` maps module paths without the `language_model.` prefix to their own spec, None where
    the map says the module is not quantized; other modules with scales follow `default`.
    """

    default: QuantSpec | None
    modules: Mapping[str, QuantSpec | None]


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """The checkpoint's own sampling advice; None where it gives none."""

    eos_token_ids: tuple[int, ...]
    do_sample: bool | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of one checkpoint's network; names as in config.json."""

    hidden_size: int
    num_hidden_layers: int
    layer_types: tuple[LayerType, ...]
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    rotary_dims: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    rms_norm_eps: float
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool
    quantization: Quantization
    generation: GenerationDefaults


def read_config(folder: Path) -> ModelConfig:
    """Reads `config.json` and, where present, `generation_config.json` of a checkpoint folder.

    Raises CheckpointError naming file and key for whatever is missing, of the wrong type,
    contradictory, or beyond what this server computes.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    top = Section.from_file(folder / "config.json")
    text = top.section("text_config") if "text_config" in top else top
    _check_family(top, text)
    generation_file = folder / "generation_config.json"
    generation = Section.from_file(generation_file) if generation_file.exists() else None
    num_layers = text.positive_int("num_hidden_layers")
    if num_layers > _MOST_LAYERS:
        raise text.error("num_hidden_layers", f"at most {_MOST_LAYERS}", str(num_layers))
    heads = text.positive_int("num_attention_heads")
    head_dim = text.positive_int("head_dim", text.positive_int("hidden_size") // heads)
    rope_theta, rotary_dims = _read_rope(text, head_dim)
    config = ModelConfig(
        hidden_size=text.positive_int("hidden_size"),
        num_hidden_layers=num_layers,
        layer_types=_read_layer_types(text, num_layers),
        num_attention_heads=heads,
        num_key_value_heads=text.positive_int("num_key_value_heads", heads),
        head_dim=head_dim,
        rope_theta=rope_theta,
        rotary_dims=rotary_dims,
        linear_num_key_heads=text.positive_int("linear_num_key_heads"),
        linear_num_value_heads=text.positive_int("linear_num_value_heads"),
        linear_key_head_dim=text.positive_int("linear_key_head_dim"),
        linear_value_head_dim=text.positive_int("linear_value_head_dim"),
        linear_conv_kernel_dim=text.positive_int("linear_conv_kernel_dim"),
        num_experts=text.positive_int("num_experts"),
        num_experts_per_tok=text.positive_int("num_experts_per_tok"),
        moe_intermediate_size=text.positive_int("moe_intermediate_size"),
        shared_expert_intermediate_size=text.positive_int("shared_expert_intermediate_size"),
        rms_norm_eps=text.positive_float("rms_norm_eps", 1e-6),
        vocab_size=text.positive_int("vocab_size"),
        max_position_embeddings=text.positive_int("max_position_embeddings"),
        tie_word_embeddings=text.boolean(
            "tie_word_embeddings", top.boolean("tie_word_embeddings", False)
        ),
        quantization=_read_quantization(top, text),
        generation=_read_generation(top, text, generation),
    )
    _check_sizes(text, config)
    return config


def _check_family(top: Section, text: Section) -> None:
    model_type = top.string("model_type", text.string("model_type", _MODEL_TYPES[0]))
    if model_type not in _MODEL_TYPES:
        raise top.error("model_type", f"one of {', '.join(_MODEL_TYPES)}", repr(model_type))
    for key, wanted in (("hidden_act", "silu"), ("output_gate_type", "swish")):
        value = text.string(key, wanted)
        if value not in (wanted, "silu", "swish"):
            raise text.error(key, repr(wanted), repr(value))
    for key, wanted in (
        ("attn_output_gate", True),
        ("norm_topk_prob", True),
        ("attention_bias", False),
    ):
        if text.boolean(key, wanted) is not wanted:
            raise text.error(key, json.dumps(wanted), json.dumps(not wanted))
    if text.get("mlp_only_layers"):
        raise text.error("mlp_only_layers", "an empty list", repr(text.get("mlp_only_layers")))
    if text.positive_int("decoder_sparse_step", 1) != 1:
        raise text.error("decoder_sparse_step", "1", repr(text.get("decoder_sparse_step")))


def _read_layer_types(text: Section, num_layers: int) -> tuple[LayerType, ...]:
    listed = text.get("layer_types")
    if listed is None:
        interval = text.positive_int("full_attention_interval", 4)
        return tuple(
            "full_attention" if (i + 1) % interval == 0 else "linear_attention"
            for i in range(num_layers)
        )
    if not isinstance(listed, list) or len(listed) != num_layers:
        found = f"{len(listed)} entries" if isinstance(listed, list) else repr(listed)
        raise text.error("layer_types", f"a list of {num_layers} entries", found)
    for i, kind in enumerate(listed):
        if kind not in get_args(LayerType):
            legal = " or ".join(map(repr, get_args(LayerType)))
            raise text.error(f"layer_types[{i}]", legal, repr(kind))
    return tuple(listed)


def _read_rope(text: Section, head_dim: int) -> tuple[float, int]:
    """(base, number of rotated dimensions of a head), from new keys or old ones."""
    rope = text
    for key in ("rope_parameters", "rope_scaling"):
        if text.get(key) is not None:
            rope = text.section(key)
            break
    kind = rope.string("rope_type", rope.string("type", "default")) if rope is not text else ""
    # M-RoPE without images gives all three axes the same position: plain rotation.
    if kind not in ("", "default", "mrope"):
        raise rope.error("rope_type", "'default'", repr(kind))
    source = rope if "rope_theta" in rope else text
    theta = source.positive_float("rope_theta")
    source = rope if "partial_rotary_factor" in rope else text
    factor = source.positive_float("partial_rotary_factor", 0.25)
    dims = int(head_dim * factor)
    if factor > 1 or dims < 2 or dims % 2:
        expected = f"a share that rotates an even number of the {head_dim} dimensions"
        raise source.error("partial_rotary_factor", expected, repr(factor))
    return theta, dims


def _check_sizes(text: Section, config: ModelConfig) -> None:
    for whole, part in (
        ("num_attention_heads", "num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
    ):
        count, divisor = getattr(config, whole), getattr(config, part)
        if count % divisor:
            raise text.error(whole, f"a multiple of {part} ({divisor})", str(count))
    if config.num_experts_per_tok > config.num_experts:
        expected = f"at most num_experts ({config.num_experts})"
        raise text.error("num_experts_per_tok", expected, str(config.num_experts_per_tok))
    if config.linear_conv_kernel_dim < 2:
        raise text.error("linear_conv_kernel_dim", "at least 2", str(config.linear_conv_kernel_dim))


def module_path(name: str) -> str:
    """A module or tensor name of any known prefix in the form used here.

    `language_model.model.X`, `model.language_model.X` and `model.X` become `model.X`;
    `language_model.lm_head.X` becomes `lm_head.X`.
    """
    if name.startswith("model.language_model."):
        rest = name.removeprefix("model.language_model.").removeprefix("model.")
        return rest if rest.startswith("lm_head") else f"model.{rest}"
    return name.removeprefix("language_model.")


def _read_quantization(top: Section, text: Section) -> Quantization:
    for holder in (top, text):
        for key in ("quantization", "quantization_config"):
            if holder.get(key) is not None:
                return _quantization_map(holder.section(key))
    return Quantization(None, MappingProxyType({}))


def _quantization_map(section: Section) -> Quantization:
    if "quant_method" in section and "bits" not in section:
        raise section.error("quant_method", "MLX's keys bits, group_size, mode", "another format")
    default = _quant_spec(section) if "bits" in section else None
    modules: dict[str, QuantSpec | None] = {}
    for key, value in section.items():
        if isinstance(value, dict):
            modules[module_path(key)] = _quant_spec(section.section(key))
        elif value is False:
            modules[module_path(key)] = None
        elif value is True and default is not None:
            modules[module_path(key)] = default
    return Quantization(default, MappingProxyType(modules))


def _quant_spec(section: Section) -> QuantSpec:
    mode: Any = section.string("mode", "affine")
    if mode not in get_args(QuantMode):
        raise section.error("mode", f"one of {', '.join(get_args(QuantMode))}", repr(mode))
    if mode in _FIXED_QUANT:
        bits, group_size = _FIXED_QUANT[mode]
        spec = QuantSpec(
            section.positive_int("bits", bits), section.positive_int("group_size", group_size), mode
        )
        if (spec.bits, spec.group_size) != (bits, group_size):
            expected = f"{bits} with group_size {group_size} (mode {mode})"
            raise section.error("bits", expected, f"{spec.bits} with {spec.group_size}")
        return spec
    bits, group_size = section.positive_int("bits"), section.positive_int("group_size", 64)
    if bits not in AFFINE_BITS:
        raise section.error("bits", f"one of {AFFINE_BITS}", str(bits))
    if group_size not in AFFINE_GROUPS:
        raise section.error("group_size", f"one of {AFFINE_GROUPS}", str(group_size))
    return QuantSpec(bits, group_size, mode)


def _read_generation(top: Section, text: Section, own: Section | None) -> GenerationDefaults:
    eos: tuple[int, ...] = ()
    for section in (own, text, top):
        if section is not None and section.get("eos_token_id") is not None:
            eos = _token_ids(section, "eos_token_id")
            break
    if own is None:
        return GenerationDefaults(eos, None, None, None, None, None)
    return GenerationDefaults(
        eos_token_ids=eos,
        do_sample=own.boolean("do_sample", None),
        temperature=own.number("temperature", None, low=0),
        top_p=own.number("top_p", None, low=0, high=1),
        top_k=own.integer("top_k", None, low=0),
        min_p=own.number("min_p", None, low=0, high=1),
    )


def _token_ids(section: Section, key: str) -> tuple[int, ...]:
    value = section.get(key)
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise section.error(key, "a token id or a list of them", repr(value))
    return tuple(dict.fromkeys(ids))
