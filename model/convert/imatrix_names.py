"""The names of an imatrix and the network's, both ways, and the order of a DeltaNet layer's heads.

llama.cpp calls the matrices `blk.N.…` and keeps the value heads of a DeltaNet layer in another
order; of an imatrix only the inputs of its output projection are affected. Knows names and sizes.
"""

from __future__ import annotations

import re
from typing import Final

from model.config import ModelConfig
from model.convert.prescale import Floats
from model.tensors import expected_tensors

_IN_LAYER: Final = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_out": "linear_attn.out_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_exps": "mlp.switch_mlp.gate_proj",
    "ffn_up_exps": "mlp.switch_mlp.up_proj",
    "ffn_down_exps": "mlp.switch_mlp.down_proj",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
_TO_GGUF: Final = {module: name for name, module in _IN_LAYER.items()}
_BLOCK: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
_LAYER: Final = re.compile(r"model\.layers\.(\d+)\.(.+)")
_OUT_PROJ: Final = "linear_attn.out_proj"


def module_of(name: str) -> str | None:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj`; None for another matrix."""
    if name == "output.weight":
        return "lm_head"
    found = _BLOCK.fullmatch(name)
    if found is None or found[2] not in _IN_LAYER:
        return None
    return f"model.layers.{int(found[1])}.{_IN_LAYER[found[2]]}"


def gguf_name(module: str) -> str | None:
    """The inverse of module_of()."""
    if module == "lm_head":
        return "output.weight"
    found = _LAYER.fullmatch(module)
    if found is None or found[2] not in _TO_GGUF:
        return None
    return f"blk.{found[1]}.{_TO_GGUF[found[2]]}.weight"


def inputs_of(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Module -> (matrices, inputs) of every matrix that multiplies something: (experts, inputs) of
    the routed experts, (1, inputs) of the others. The embedding multiplies nothing."""
    return {
        name.removesuffix(".weight"): (spec.shape[0] if len(spec.shape) == 3 else 1, spec.shape[-1])
        for name, spec in expected_tensors(config).items()
        if spec.kind == "matrix" and not name.startswith("model.embed_tokens")
    }


def from_gguf_order(module: str, values: Floats, config: ModelConfig) -> Floats:
    """values [..., inputs] of a module in llama.cpp's order, in the network's.

    There, value head r of key head k stands at r · key heads + k; here, neighbours share a key
    head: k · (value heads per key head) + r.
    """
    return _swapped(module, values, config, to_gguf=False)


def to_gguf_order(module: str, values: Floats, config: ModelConfig) -> Floats:
    """The inverse of from_gguf_order()."""
    return _swapped(module, values, config, to_gguf=True)


def _swapped(module: str, values: Floats, config: ModelConfig, *, to_gguf: bool) -> Floats:
    if not module.endswith(_OUT_PROJ):
        return values
    keys = config.linear_num_key_heads
    per_key = config.linear_num_value_heads // keys
    heads = (keys, per_key) if to_gguf else (per_key, keys)
    apart = values.reshape(*values.shape[:-1], *heads, config.linear_value_head_dim)
    return apart.swapaxes(-3, -2).reshape(values.shape)
