"""The formats a checkpoint of ours can be written in: which module is stored how.

Each is one that real converters write: the model card's own recipe, mlx-lm's uniform ones, plain
bfloat16, and the original layout. Knows module names, no arrays.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .config import QuantSpec

_GATE = re.compile(r"(mlp\.gate|shared_expert_gate)$")
_TABLES = re.compile(r"(embed_tokens|lm_head|mlp\.gate|shared_expert_gate)$")
_CARD_MXFP8 = re.compile(
    r"([qkv]_proj|in_proj_qkv|in_proj_z|switch_mlp\.\w+|shared_expert\.\w+_proj)$"
)
_AFFINE8 = QuantSpec(8, 64, "affine")
_MXFP8 = QuantSpec(8, 32, "mxfp8")


@dataclass(frozen=True, slots=True)
class StorageFormat:
    """A way to store a checkpoint.

    default: the top level of the quantization map; gates: what the experts' gates have instead.
    by_card: only the matrices of the model card's table are quantized, each as it says.
    """

    name: str
    default: QuantSpec | None = None
    gates: QuantSpec | None = None
    by_card: bool = False
    original: bool = False

    def spec(self, module: str) -> QuantSpec | None:
        """How a matrix is stored; None is bfloat16."""
        if self.by_card:
            if _TABLES.search(module):
                return _AFFINE8
            return _MXFP8 if _CARD_MXFP8.search(module) else None
        return self.gates if _GATE.search(module) else self.default

    def config_section(self, modules: Iterable[str]) -> dict[str, Any] | None:
        """The `quantization` section of config.json: the default, and the modules that differ."""
        if self.default is None:
            return None
        section: dict[str, Any] = asdict(self.default)
        for module in modules:
            spec = self.spec(module)
            if spec is not None and spec != self.default:
                section[f"language_model.{module}"] = asdict(spec)
        return section


FORMATS = {
    each.name: each
    for each in (
        StorageFormat("mlx-ud-mxfp8", _AFFINE8, by_card=True),
        StorageFormat("mlx-mxfp8", _MXFP8, _AFFINE8),
        StorageFormat("mlx-affine8", _AFFINE8, _AFFINE8),
        StorageFormat("mlx-affine4", QuantSpec(4, 64, "affine"), _AFFINE8),
        StorageFormat("mlx-mxfp4", QuantSpec(4, 32, "mxfp4"), _AFFINE8),
        StorageFormat("mlx-nvfp4", QuantSpec(4, 16, "nvfp4"), _AFFINE8),
        StorageFormat("mlx-bf16"),
        StorageFormat("original", original=True),
    )
}
