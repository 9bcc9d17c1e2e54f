"""A conversion in words and figures: what is stored how, its size, what a token reads of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from model.bytes_read import kv_bytes, state_bytes, tensor_bytes, weight_bytes
from model.config import QuantSpec
from model.convert.plan import ConversionPlan
from model.geometry import Geometry

_LAYER = re.compile(r"\.(layers|blocks)\.\d+\.")


@dataclass(frozen=True, slots=True)
class Row:
    """Tensors of one kind and one format. shape: of each. nbytes: of all; per_token: bytes of
    them that one decoded token reads."""

    name: str
    part: str
    count: int
    shape: tuple[int, ...]
    stored: str
    values: int
    nbytes: int
    per_token: float

    @property
    def bits(self) -> float:
        """For each weight, scales included."""
        return 8 * self.nbytes / self.values


def rows_of(plan: ConversionPlan) -> list[Row]:
    """The plan, tensors of all layers together where they are alike."""
    read = tensor_bytes(geometry_of(plan))
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for output in plan.outputs:
        tensor = output.tensor
        name = _LAYER.sub(r".\1.*.", tensor.name)
        if tensor.part != "text":
            name = f"{tensor.name.split('.')[0]}.*"
        how = described(output.spec) if output.spec else output.places["weight"].dtype.lower()
        shape = tensor.shape if tensor.part == "text" else ()
        key = (name, tensor.part, shape, how)
        groups.setdefault(key, []).append((output, read.get(tensor.name, 0.0)))
    return [
        Row(
            name=name,
            part=part,
            count=len(found),
            shape=shape,
            stored=how,
            values=sum(prod(output.tensor.shape) for output, _ in found),
            nbytes=sum(output.nbytes for output, _ in found),
            per_token=sum(size for _, size in found),
        )
        for (name, part, shape, how), found in groups.items()
    ]


def geometry_of(plan: ConversionPlan) -> Geometry:
    """The sizes of the network that the conversion makes."""
    config = plan.source.config
    specs = dict.fromkeys(t.module for t in plan.source.tensors.values() if t.kind == "matrix")
    folder = plan.source.folder
    top = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = top.get("text_config", top)
    return Geometry(folder.resolve().name, config, specs | plan.quantized(), text)


def described(spec: QuantSpec | None) -> str:
    """mxfp8, mxfp4, affine8 g64; bf16 for None."""
    if spec is None:
        return "bf16"
    return f"affine{spec.bits} g{spec.group_size}" if spec.mode == "affine" else spec.mode


def summary(plan: ConversionPlan) -> dict[str, Any]:
    """The figures of a plan as JSON: sizes in bytes, of everything and for one decoded token."""
    geometry = geometry_of(plan)
    weights = weight_bytes(geometry)
    rows = rows_of(plan)
    return {
        "recipe": plan.recipe.name,
        "source": plan.source.folder.resolve().name,
        "dropped": sorted(plan.dropped),
        "files": len(plan.files),
        "bytes": plan.nbytes,
        "parameters": sum(row.values for row in rows),
        "bits_per_weight": 8 * sum(row.nbytes for row in rows) / sum(row.values for row in rows),
        "bytes_per_token": {
            "weights": round(sum(weights.values())),
            "by_part": {part: round(size) for part, size in weights.items()},
            "recurrent_state": round(state_bytes(geometry)),
            "kv_of_4096": round(kv_bytes(geometry, 4096)),
        },
        "tensors": [asdict(row) | {"bits": round(row.bits, 3)} for row in rows],
    }


def table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> list[str]:
    """Lines of columns; the first `left` to the left, the others to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def plan_text(plan: ConversionPlan) -> str:
    """What `mxserve convert --plan` prints."""
    rows = rows_of(plan)
    lines = table(
        ("tensors", "stored as", "shape", "count", "bits", "size", "per token"),
        (
            (
                row.name,
                row.stored,
                "" if not row.shape else "x".join(map(str, row.shape)),
                str(row.count),
                f"{row.bits:.2f}",
                size_text(row.nbytes),
                size_text(row.per_token) if row.per_token else "-",
            )
            for row in rows
        ),
        left=3,
    )
    figures: Mapping[str, Any] = summary(plan)
    read = figures["bytes_per_token"]
    files = f"{len(plan.files)} file" + ("s" if len(plan.files) > 1 else "")
    return "\n".join(
        [
            *lines,
            "",
            f"{plan.recipe.name}: {plan.recipe.about}",
            f"{size_text(plan.nbytes)} in {files}, {figures['parameters'] / 1e9:.3f} G parameters, "
            f"{figures['bits_per_weight']:.2f} bits each",
            f"one decoded token reads {size_text(read['weights'])} of weights, "
            f"{size_text(read['recurrent_state'])} of recurrent state, and "
            f"{size_text(read['kv_of_4096'])} of keys and values after 4,096 tokens",
        ]
    )


def size_text(nbytes: float) -> str:
    """1.23 GB, 45.6 MB, 789 kB; decimal."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if nbytes >= scale:
            value = nbytes / scale
            return f"{value:.3f} {unit}" if unit == "GB" else f"{value:.1f} {unit}"
    return f"{nbytes / 1e3:.1f} kB"
