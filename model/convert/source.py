"""The checkpoint to convert, read lazily: tensors by the network's names, a few rows at a time.

Takes what model/layout.py understands, unquantized: the original layout, sharded or not, and MLX's.
Reads ranges of files, so that a fused tensor of all experts is never in memory as a whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from model.config import ModelConfig, read_config
from model.convert.prescale import Floats
from model.convert.rounding import bf16_values
from model.errors import CheckpointError
from model.hub import hub_snapshot
from model.layout import Change
from model.load_plan import plan_loading
from model.safetensors_files import StoredTensor, fingerprint, problems_error, stored_tensors
from model.tensors import Kind, Shape

Part = Literal["text", "vision", "mtp"]
VISION = re.compile(r"^(model\.)?(visual|vision_tower|vision_model)\.")
MTP = re.compile(r"(^|\.)mtp[._]")
_PATCHES = "patch_embed.proj.weight"
DTYPES: dict[str, Any] = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
_MLX_DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor of the source. name, shape: the network's, in the MLX layout; `mtp.*` tensors
    are as they are stored. offset: of the stored tensor's first byte in its file."""

    name: str
    shape: Shape
    kind: Kind
    part: Part
    stored: StoredTensor
    change: Change | Literal["channels last"]
    offset: int

    @property
    def module(self) -> str:
        """The name without `.weight`."""
        return self.name.removesuffix(".weight")

    @property
    def dtype(self) -> str:
        """As stored: BF16, F16 or F32."""
        return self.stored.dtype

    @property
    def row_values(self) -> int:
        """Values in one step of the first axis."""
        return prod(self.shape[1:])

    def bits(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """[stop - start, ...] of the first axis as stored: uint16 for bfloat16, else floats. A
        norm that is stored without its one is so here. Raises CheckpointError."""
        stop = self.shape[0] if stop is None else stop
        wanted = (stop - start, *self.shape[1:])
        if self.change in ("gate half", "up half"):
            second = self.change == "up half"
            runs = ((2 * i + second, self.row_values) for i in range(start, stop))
            data = b"".join(self._read(i * count, count) for i, count in runs)
        else:
            data = self._read(start * self.row_values, (stop - start) * self.row_values)
        array = np.frombuffer(data, DTYPES[self.dtype])
        if self.change == "channels last":
            channels = wanted[-1]
            array = array.reshape(wanted[0], channels, -1).swapaxes(1, 2)
        return np.ascontiguousarray(array.reshape(wanted))

    def values(self, start: int = 0, stop: int | None = None) -> Floats:
        """The same as float32, exactly what the network means: a norm has its one."""
        bits = self.bits(start, stop)
        values = bf16_values(bits) if self.dtype == "BF16" else bits.astype(np.float32)
        return values + np.float32(1) if self.change == "add one" else values

    def _read(self, first: int, count: int) -> bytes:
        size = np.dtype(DTYPES[self.dtype]).itemsize
        with self.stored.file.open("rb") as file:
            file.seek(self.offset + first * size)
            data = file.read(count * size)
        if len(data) != count * size:
            raise CheckpointError(
                f"{self.stored.file}: {self.stored.name}: expected {count * size} bytes, found "
                f"{len(data)}: the file changed after its header was read"
            )
        return data


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint whose headers were read. tensors: by name, the network's in the order of its
    layers, then vision, then MTP. dropped: stored names that belong to none of these."""

    folder: Path
    config: ModelConfig
    tensors: Mapping[str, SourceTensor]
    dropped: tuple[str, ...]
    fingerprint: str

    def __getitem__(self, name: str) -> mx.array:
        """A whole tensor in the dtype it is stored in (a norm that gets its one: float32)."""
        tensor = self.tensors[name]
        if tensor.change == "add one":
            return mx.array(tensor.values())
        array = mx.array(tensor.bits())
        return array.view(_MLX_DTYPES[tensor.dtype])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)


def open_source(path: str | Path) -> Source:
    """Opens a folder, or a hub id that is downloaded where needed. Raises CheckpointError where
    it is not whole, not this network, or quantized already."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = hub_snapshot(str(path))
    config = read_config(folder)
    plan = plan_loading(folder, config)
    _check_unquantized(folder, plan)
    offsets = {file: data_offsets(file) for file in plan.files}
    tensors: dict[str, SourceTensor] = {}
    for planned in plan.tensors:
        if MTP.search(planned.name):
            continue
        stored, change = planned.source.stored, planned.source.change
        tensors[planned.name] = SourceTensor(
            planned.name,
            _network_shape(stored.shape, change),
            planned.kind,
            "text",
            stored,
            change,
            offsets[stored.file][stored.name],
        )
    taken = {tensor.stored.name for tensor in tensors.values()}
    rest = {name: s for name, s in stored_tensors(folder).items() if name not in taken}
    beside = [_beside(stored, offsets[stored.file][name]) for name, stored in rest.items()]
    ordered = sorted((t for t in beside if t), key=lambda t: (t.part == "mtp", t.name))
    tensors |= {tensor.name: tensor for tensor in ordered}
    kept = taken | {tensor.stored.name for tensor in ordered}
    dropped = tuple(sorted(name for name in rest if name not in kept))
    return Source(folder, config, MappingProxyType(tensors), dropped, fingerprint(folder))


def _check_unquantized(folder: Path, plan: Any) -> None:
    problems = [
        f"{t.source.stored.name}: expected BF16, F16 or F32, found {t.spec.mode} {t.spec.bits}-bit"
        for t in plan.tensors
        if t.spec is not None
    ]
    if problems:
        raise problems_error(
            folder, "quantized already; convert the original, unquantized checkpoint", problems
        )


def _network_shape(shape: Shape, change: Change) -> Shape:
    """The inverse of layout.stored_shape."""
    if change in ("gate half", "up half"):
        return shape[0], shape[1] // 2, shape[2]
    if change == "move channels":
        return shape[0], shape[2], shape[1]
    return shape


def _beside(stored: StoredTensor, offset: int) -> SourceTensor | None:
    """A vision or MTP tensor; None for another one."""
    if stored.dtype not in DTYPES:
        return None
    if MTP.search(stored.name):
        return SourceTensor(stored.name, stored.shape, "plain", "mtp", stored, "none", offset)
    if not VISION.search(stored.name):
        return None
    name = "vision_tower." + VISION.sub("", stored.name)
    shape, change = stored.shape, "none"
    # MLX's convolutions have their channels last; the original's are second.
    if name.endswith(_PATCHES) and len(shape) == 5 and stored.name.startswith("model.visual."):
        shape, change = (shape[0], *shape[2:], shape[1]), "channels last"
    return SourceTensor(name, shape, "plain", "vision", stored, change, offset)


def data_offsets(file: Path) -> dict[str, int]:
    """Tensor -> where its bytes begin in a file whose header was checked before."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }
