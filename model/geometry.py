"""A network's sizes without a checkpoint: the real model's, by name, stored as its card says.

Knows configurations and how matrices are stored; no arrays.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from model.config import ModelConfig, QuantSpec, read_config
from model.load_plan import plan_loading
from model.random_values import GEOMETRIES
from model.storage_formats import FORMATS
from model.tensors import Shape, expected_tensors

NAMES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"qwen3.6-35b-a3b": GEOMETRIES["full"], "tiny": GEOMETRIES["tiny"]}
)
CARD = "mlx-ud-mxfp8"  # the recipe of the model card's checkpoint


@dataclass(frozen=True, slots=True)
class Geometry:
    """specs: of each matrix by module path, None where it is not quantized. text: the text_config
    that `config` was read from."""

    name: str
    config: ModelConfig
    specs: Mapping[str, QuantSpec | None]
    text: Mapping[str, Any]


def named(name: str, *, layers: Sequence[str] | None = None, storage: str = CARD) -> Geometry:
    """One of NAMES, or with other layers ("linear_attention", "full_attention"), in one of the
    storage formats. Raises KeyError for an unknown name or format."""
    return of_text(name, NAMES[name], layers=layers, storage=storage)


def of_text(
    name: str,
    text: Mapping[str, Any],
    *,
    layers: Sequence[str] | None = None,
    storage: str = CARD,
) -> Geometry:
    """The same for a text_config of one's own."""
    section = dict(text)
    if layers is not None:
        section |= {"layer_types": list(layers), "num_hidden_layers": len(layers)}
    document = {"model_type": "qwen3_5_moe", "text_config": section}
    with tempfile.TemporaryDirectory(prefix="mxserve-geometry-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(document), encoding="utf-8")
        config = read_config(Path(folder))
    specs = {
        tensor.removesuffix(".weight"): FORMATS[storage].spec(tensor.removesuffix(".weight"))
        for tensor, spec in expected_tensors(config).items()
        if spec.kind == "matrix"
    }
    return Geometry(name, config, specs, section)


def toy(geometry: Geometry) -> Geometry:
    """A network of tiny widths with the layers of `geometry`."""
    kinds = geometry.config.layer_types
    return of_text(f"{len(kinds)}-layer toy", NAMES["tiny"], layers=kinds)


def of_checkpoint(folder: Path) -> Geometry:
    """What a checkpoint's headers say. Raises CheckpointError."""
    config = read_config(folder)
    plan = plan_loading(folder, config)
    matrices = {t.module: t.spec for t in plan.tensors if t.kind == "matrix"}
    top: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return Geometry(folder.resolve().name, config, matrices, top.get("text_config", top))


def stored_parts(shape: Shape, spec: QuantSpec | None) -> dict[str, tuple[Shape, str]]:
    """Suffix -> shape and type (a name in mlx) of the arrays that hold a matrix."""
    if spec is None:
        return {"weight": (shape, "bfloat16")}
    packed = (*shape[:-1], shape[-1] * spec.bits // 32)
    groups = (*shape[:-1], shape[-1] // spec.group_size)
    parts = {"weight": (packed, "uint32")}
    if spec.mode != "affine":
        return parts | {"scales": (groups, "uint8")}
    return parts | {"scales": (groups, "bfloat16"), "biases": (groups, "bfloat16")}
