"""The recipes: which matrix is stored how, as tables to read and to add to.

A rule is the end of a module path and a format; the first rule that fits decides, and what no rule
names is stored as `rest` says. None is bfloat16. Knows module names, no arrays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from model.config import QuantSpec
from model.tensors import Shape

BF16 = None
AFFINE8 = QuantSpec(8, 64, "affine")
AFFINE4 = QuantSpec(4, 64, "affine")
MXFP8 = QuantSpec(8, 32, "mxfp8")
MXFP4 = QuantSpec(4, 32, "mxfp4")
NVFP4 = QuantSpec(4, 16, "nvfp4")

TABLES = r"embed_tokens|lm_head"
GATES = r"mlp\.gate|shared_expert_gate"
EXPERTS = r"switch_mlp\.\w+_proj|shared_expert\.\w+_proj"
INPUTS = r"self_attn\.[qkv]_proj|linear_attn\.in_proj_(qkv|z)"
OUTPUTS = r"self_attn\.o_proj|linear_attn\.out_proj"

Rule = tuple[str, QuantSpec | None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One table. header: what stands at the top of config.json's `quantization`; None where
    nothing is quantized."""

    name: str
    about: str
    rules: tuple[Rule, ...]
    rest: QuantSpec | None
    header: QuantSpec | None

    def spec(self, module: str) -> QuantSpec | None:
        """How the table wants a matrix stored, by its module path with or without prefix."""
        for ending, spec in self.rules:
            if _ends(ending).search(module):
                return spec
        return self.rest

    def decide(self, module: str, shape: Shape) -> QuantSpec | None:
        """The same, but None for a matrix [..., in] whose inputs are no whole groups."""
        spec = self.spec(module)
        return None if spec is None or shape[-1] % spec.group_size else spec

    def config_section(self, modules: Iterable[str]) -> dict[str, Any] | None:
        """The `quantization` section of config.json for the quantized modules of a checkpoint
        (paths without prefix): the header, and the modules that differ from it."""
        if self.header is None:
            return None
        section: dict[str, Any] = asdict(self.header)
        for module in modules:
            spec = self.spec(module)
            if spec is not None and spec != self.header:
                section[f"language_model.{module}"] = asdict(spec)
        return section


@cache
def _ends(ending: str) -> re.Pattern[str]:
    return re.compile(rf"(^|\.)({ending})$")


def uniform(name: str, about: str, spec: QuantSpec) -> Recipe:
    """Every matrix alike, as mlx-lm converts; the experts' gates are too delicate for it."""
    return Recipe(name, about, ((GATES, AFFINE8),), rest=spec, header=spec)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "ud-mxfp8",
            "the model card's table: mxfp8, with tables and gates in affine8, outputs in bf16",
            ((TABLES, AFFINE8), (GATES, AFFINE8), (INPUTS, MXFP8), (EXPERTS, MXFP8)),
            rest=BF16,
            header=AFFINE8,
        ),
        Recipe(
            "ud-mxfp8-fast",
            "the same with outputs (o_proj, out_proj) in affine8: fewer bytes per token",
            (
                (TABLES, AFFINE8),
                (GATES, AFFINE8),
                (INPUTS, MXFP8),
                (EXPERTS, MXFP8),
                (OUTPUTS, AFFINE8),
            ),
            rest=BF16,
            header=AFFINE8,
        ),
        uniform("mxfp8", "every matrix in mxfp8, gates in affine8, as mlx-lm converts", MXFP8),
        uniform("mxfp4", "every matrix in mxfp4, gates in affine8", MXFP4),
        uniform("affine8", "every matrix in affine8 with groups of 64", AFFINE8),
        uniform("affine4", "every matrix in affine4 with groups of 64, gates in affine8", AFFINE4),
        Recipe("bf16", "nothing quantized", (), rest=BF16, header=None),
    )
}
