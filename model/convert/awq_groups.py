"""Which matrices multiply the output of which norm: what has to be scaled together.

The final norm is left alone: the MTP head reads what it gives, and the output head reads the MTP
head's own norm too. Knows names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from model.config import ModelConfig

_OF_ATTENTION: Final = tuple(f"self_attn.{part}_proj" for part in "qkv")
_OF_DELTA_NET: Final = tuple(f"linear_attn.in_proj_{part}" for part in ("qkv", "z", "a", "b"))
_OF_EXPERTS: Final = (
    "mlp.gate",
    "mlp.shared_expert_gate",
    "mlp.shared_expert.gate_proj",
    "mlp.shared_expert.up_proj",
    "mlp.switch_mlp.gate_proj",
    "mlp.switch_mlp.up_proj",
)


@dataclass(frozen=True, slots=True)
class NormGroup:
    """norm: a tensor's name; consumers: the modules that multiply its output, all of them."""

    norm: str
    consumers: tuple[str, ...]


def norm_groups(config: ModelConfig) -> list[NormGroup]:
    """Two of every layer: what its mixer reads, and what its experts and their router read."""
    groups: list[NormGroup] = []
    for index, kind in enumerate(config.layer_types):
        path = f"model.layers.{index}"
        mixer = _OF_ATTENTION if kind == "full_attention" else _OF_DELTA_NET
        for norm, consumers in (
            ("input_layernorm", mixer),
            ("post_attention_layernorm", _OF_EXPERTS),
        ):
            modules = tuple(f"{path}.{name}" for name in consumers)
            groups.append(NormGroup(f"{path}.{norm}.weight", modules))
    return groups


def norm_of(config: ModelConfig) -> Mapping[str, str]:
    """Module -> the norm whose output it multiplies."""
    return {module: group.norm for group in norm_groups(config) for module in group.consumers}
