"""The table of tensors a configuration implies: name, shape, and what storage it may have.

Names and shapes are those of the MLX layout, without the `language_model.` prefix. Knows nothing
about files or arrays.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal

from .config import ModelConfig

Shape = tuple[int, ...]
# matrix: may be quantized along its last axis; plain: cast to the compute dtype; float32: kept so.
Kind = Literal["matrix", "plain", "float32"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the unquantized network."""

    shape: Shape
    kind: Kind


def expected_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """Name -> spec of every tensor the network needs, in the order of its layers."""
    hidden = config.hidden_size
    table = {"model.embed_tokens.weight": TensorSpec((config.vocab_size, hidden), "matrix")}
    for i, layer_type in enumerate(config.layer_types):
        mixer = _delta_net(config) if layer_type == "linear_attention" else _attention(config)
        for name, spec in (mixer | _experts(config)).items():
            table[f"model.layers.{i}.{name}"] = spec
    table["model.norm.weight"] = TensorSpec((hidden,), "plain")
    if not config.tie_word_embeddings:
        table["lm_head.weight"] = TensorSpec((config.vocab_size, hidden), "matrix")
    return table


def expected_mtp_tensors(config: ModelConfig) -> dict[str, TensorSpec]:
    """The same of the MTP head: one attention layer with experts behind a matrix of its own; the
    embedding and the output head are the network's."""
    hidden = config.hidden_size
    table = {"mtp.fc.weight": TensorSpec((hidden, 2 * hidden), "matrix")}
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        table[f"mtp.{name}.weight"] = TensorSpec((hidden,), "plain")
    for name, spec in (_attention(config) | _experts(config)).items():
        table[f"mtp.layers.0.{name}"] = spec
    return table


def parameter_count(config: ModelConfig) -> int:
    """Number of weights of the unquantized network."""
    return sum(prod(spec.shape) for spec in expected_tensors(config).values())


def _delta_net(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, value_heads = config.hidden_size, config.linear_num_value_heads
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = value_heads * config.linear_value_head_dim
    channels = 2 * keys + values
    shapes: dict[str, tuple[Shape, Kind]] = {
        "in_proj_qkv.weight": ((channels, hidden), "matrix"),
        "in_proj_z.weight": ((values, hidden), "matrix"),
        "in_proj_b.weight": ((value_heads, hidden), "matrix"),
        "in_proj_a.weight": ((value_heads, hidden), "matrix"),
        "conv1d.weight": ((channels, config.linear_conv_kernel_dim, 1), "plain"),
        "A_log": ((value_heads,), "float32"),
        "dt_bias": ((value_heads,), "float32"),
        "norm.weight": ((config.linear_value_head_dim,), "plain"),
        "out_proj.weight": ((hidden, values), "matrix"),
    }
    return {f"linear_attn.{name}": TensorSpec(*spec) for name, spec in shapes.items()}


def _attention(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, size = config.hidden_size, config.head_dim
    queries = config.num_attention_heads * size
    keys = config.num_key_value_heads * size
    shapes: dict[str, tuple[Shape, Kind]] = {
        "q_proj.weight": ((2 * queries, hidden), "matrix"),  # each head: query, then its gate
        "k_proj.weight": ((keys, hidden), "matrix"),
        "v_proj.weight": ((keys, hidden), "matrix"),
        "o_proj.weight": ((hidden, queries), "matrix"),
        "q_norm.weight": ((size,), "plain"),
        "k_norm.weight": ((size,), "plain"),
    }
    return {f"self_attn.{name}": TensorSpec(*spec) for name, spec in shapes.items()}


def _experts(config: ModelConfig) -> dict[str, TensorSpec]:
    hidden, count = config.hidden_size, config.num_experts
    inner, shared = config.moe_intermediate_size, config.shared_expert_intermediate_size
    return {
        "input_layernorm.weight": TensorSpec((hidden,), "plain"),
        "post_attention_layernorm.weight": TensorSpec((hidden,), "plain"),
        "mlp.gate.weight": TensorSpec((count, hidden), "matrix"),
        "mlp.switch_mlp.gate_proj.weight": TensorSpec((count, inner, hidden), "matrix"),
        "mlp.switch_mlp.up_proj.weight": TensorSpec((count, inner, hidden), "matrix"),
        "mlp.switch_mlp.down_proj.weight": TensorSpec((count, hidden, inner), "matrix"),
        "mlp.shared_expert.gate_proj.weight": TensorSpec((shared, hidden), "matrix"),
        "mlp.shared_expert.up_proj.weight": TensorSpec((shared, hidden), "matrix"),
        "mlp.shared_expert.down_proj.weight": TensorSpec((hidden, shared), "matrix"),
        "mlp.shared_expert_gate.weight": TensorSpec((1, hidden), "matrix"),
    }
