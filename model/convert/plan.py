"""What a conversion writes, decided from headers alone: every tensor, its format, its place.

The places are fixed before anything is written, so a conversion can be taken up anywhere and gives
the same bytes. Knows names, shapes and formats; reads no values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from model.config import QuantSpec
from model.convert.quantize import can_write
from model.convert.recipe import Recipe
from model.convert.source import Part, Source, SourceTensor
from model.errors import CheckpointError
from model.geometry import stored_parts
from model.tensors import Shape

SHARD_BYTES = 5 * 10**9
MTP_FILE = "mtp.safetensors"
_DTYPES = {"uint32": "U32", "uint8": "U8", "bfloat16": "BF16"}
_ITEM_BYTES = {"U32": 4, "F32": 4, "BF16": 2, "F16": 2, "U8": 1}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stored tensor lies. file: index into the plan's files; start: its first byte."""

    name: str
    dtype: str
    shape: Shape
    file: int
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Output:
    """One tensor of the source and what becomes of it. places: by suffix (weight, scales, biases);
    a tensor that is not quantized has one, under `weight`."""

    tensor: SourceTensor
    spec: QuantSpec | None
    places: dict[str, Place]

    @property
    def nbytes(self) -> int:
        return sum(place.nbytes for place in self.places.values())


@dataclass(frozen=True, slots=True)
class File:
    """header: all bytes before the data."""

    name: str
    header: bytes
    size: int


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """outputs are in the order in which they are written, file by file."""

    source: Source
    recipe: Recipe
    dropped: frozenset[Part]
    outputs: tuple[Output, ...]
    files: tuple[File, ...]

    @property
    def nbytes(self) -> int:
        """Size of all weight files."""
        return sum(file.size for file in self.files)

    def quantized(self) -> dict[str, QuantSpec]:
        """Module -> format of the matrices that are quantized, in order."""
        return {o.tensor.module: o.spec for o in self.outputs if o.spec is not None}

    def weight_map(self) -> dict[str, str]:
        """Stored name -> file, sorted, as the index has it."""
        places = (place for output in self.outputs for place in output.places.values())
        return dict(sorted((place.name, self.files[place.file].name) for place in places))


def plan_conversion(
    source: Source,
    recipe: Recipe,
    *,
    drop: Iterable[Part] = (),
    shard_bytes: int = SHARD_BYTES,
) -> ConversionPlan:
    """Decides on every tensor. Raises CheckpointError for a format that is not written here."""
    dropped = frozenset(drop)
    decided = list(_decisions(source, recipe, dropped))
    groups = _files(decided, shard_bytes)
    outputs: list[Output] = []
    files: list[File] = []
    for index, (name, group) in enumerate(groups):
        placed, file = _laid_out(name, index, group)
        outputs += placed
        files.append(file)
    return ConversionPlan(source, recipe, dropped, tuple(outputs), tuple(files))


_Decision = tuple[SourceTensor, QuantSpec | None, dict[str, tuple[Shape, str]]]


def _decisions(source: Source, recipe: Recipe, dropped: frozenset[Part]) -> Iterator[_Decision]:
    for tensor in source.tensors.values():
        if tensor.part in dropped:
            continue
        spec = recipe.decide(tensor.module, tensor.shape) if tensor.kind == "matrix" else None
        if spec is None:
            rounded = tensor.part == "text" and tensor.kind != "float32"
            dtype = "BF16" if rounded else tensor.dtype
            yield tensor, None, {"weight": (tensor.shape, dtype)}
            continue
        if not can_write(spec):
            raise CheckpointError(
                f"recipe {recipe.name}: {tensor.module}: expected mxfp8, mxfp4, or affine of 4 or "
                f"8 bits, found {spec.mode} of {spec.bits} bits in groups of {spec.group_size}"
            )
        parts = stored_parts(tensor.shape, spec).items()
        yield tensor, spec, {suffix: (shape, _DTYPES[kind]) for suffix, (shape, kind) in parts}


def _files(decided: list[_Decision], limit: int) -> list[tuple[str, list[_Decision]]]:
    """(name, tensors) of each file: as many as fit, in order; MTP tensors in one of their own."""
    shards: list[list[_Decision]] = []
    mtp: list[_Decision] = []
    filled = 0
    for decision in decided:
        tensor, _, parts = decision
        if tensor.part == "mtp":
            mtp.append(decision)
            continue
        size = sum(prod(shape) * _ITEM_BYTES[dtype] for shape, dtype in parts.values())
        if not shards or filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(decision)
        filled += size
    count = len(shards)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    named = list(zip(names if count > 1 else ["model.safetensors"], shards, strict=True))
    return [*named, (MTP_FILE, mtp)] if mtp else named


def _laid_out(name: str, index: int, group: list[_Decision]) -> tuple[list[Output], File]:
    """The tensors of one file in their places: the widest items first, so that all are aligned."""
    entries = [
        (_stored_name(tensor, suffix, spec), shape, dtype)
        for tensor, spec, parts in group
        for suffix, (shape, dtype) in parts.items()
    ]
    entries.sort(key=lambda entry: -_ITEM_BYTES[entry[2]])
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for stored, shape, dtype in entries:
        start, end = end, end + prod(shape) * _ITEM_BYTES[dtype]
        header[stored] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    outputs = []
    for tensor, spec, parts in group:
        places = {}
        for suffix, (shape, dtype) in parts.items():
            stored = _stored_name(tensor, suffix, spec)
            start = first + header[stored]["data_offsets"][0]
            places[suffix] = Place(stored, dtype, shape, index, start)
        outputs.append(Output(tensor, spec, places))
    return outputs, File(name, len(text).to_bytes(8, "little") + text, first + end)


def _stored_name(tensor: SourceTensor, suffix: str, spec: QuantSpec | None) -> str:
    name = tensor.name if spec is None else f"{tensor.module}.{suffix}"
    return f"language_model.{name}" if tensor.part == "text" else name
