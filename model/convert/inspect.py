"""What is in a checkpoint folder: sizes by part, what a token reads, what its values give away.

Headers tell most of it. Of the values a sample of every quantized matrix is read, or all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model import device
from model.bytes_read import PARTS, kv_bytes, part_of, state_bytes, weight_bytes
from model.config import read_config
from model.convert.findings import Finding, awq_finding, files_finding, mtp_finding, values_finding
from model.convert.journal import FOLDER, RECORD
from model.convert.report import described
from model.convert.source import MTP, VISION, data_offsets
from model.errors import CheckpointError
from model.geometry import Geometry, of_checkpoint
from model.load_plan import LoadPlan, PlannedTensor, plan_loading
from model.safetensors_files import StoredTensor, stored_tensors

SAMPLE_BYTES = 1 << 20  # of each tensor's codes, in pieces evenly spread over it
_PIECES = 16
_CONTEXT = 32_768


@dataclass(frozen=True, slots=True)
class PartSize:
    """One part of the network, or vision, or mtp."""

    name: str
    parameters: int
    nbytes: int
    formats: dict[str, int]  # how stored -> tensors

    @property
    def bits(self) -> float:
        return 8 * self.nbytes / self.parameters if self.parameters else 0.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything found. problem: why it would not load, None where it would."""

    folder: Path
    problem: str | None
    geometry: Geometry | None
    parts: tuple[PartSize, ...]
    nbytes: int
    files: int
    findings: tuple[Finding, ...]
    record: Mapping[str, Any] | None

    def memory(self) -> dict[str, Any] | None:
        """What serving one conversation of 32,768 tokens takes as stored, and what is free here."""
        if self.geometry is None:
            return None
        info = device.current()
        asleep = {"vision", "mtp"}
        weights = sum(part.nbytes for part in self.parts if part.name not in asleep)
        needed = weights + kv_bytes(self.geometry, _CONTEXT) + state_bytes(self.geometry) / 2
        return {
            "device": info.kind,
            "needed_bytes": round(needed),
            "context": _CONTEXT,
            "available_bytes": info.memory_available,
            "fits": needed <= info.memory_available,
        }

    def to_json(self) -> dict[str, Any]:
        """As `mxserve inspect --json` prints it; sizes in bytes."""
        found: dict[str, Any] = {
            "name": self.folder.resolve().name,
            "loads": self.problem is None,
            "problem": self.problem,
            "architecture": None if self.geometry is None else architecture(self.geometry),
            "bytes": self.nbytes,
            "files": self.files,
            "parameters": sum(part.parameters for part in self.parts),
            "parts": [
                {
                    "name": part.name,
                    "parameters": part.parameters,
                    "bytes": part.nbytes,
                    "bits": round(part.bits, 3),
                    "stored_as": part.formats,
                }
                for part in self.parts
            ],
            "bytes_per_token": None,
            "memory": self.memory(),
            "conversion": self.record,
            "findings": [finding.to_json() for finding in self.findings],
        }
        if self.geometry is not None:
            read = weight_bytes(self.geometry)
            found["bytes_per_token"] = {
                "weights": round(sum(read.values())),
                "by_part": {name: round(size) for name, size in read.items()},
                "recurrent_state": round(state_bytes(self.geometry)),
                "kv_of_4096": round(kv_bytes(self.geometry, 4096)),
            }
        return found


def inspect(folder: Path, *, reference: Path | None = None, everything: bool = False) -> Inspection:
    """Looks at a checkpoint folder. reference: the original, to compare the norms with;
    everything: read all values, not a sample. Raises CheckpointError only where there is nothing
    to look at."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    record = _record(folder)
    try:
        stored = stored_tensors(folder)
        config = read_config(folder)
        plan = plan_loading(folder, config)
    except CheckpointError as error:
        problem = str(error)
        if (folder / FOLDER).is_dir():
            problem = f"an unfinished conversion, which the same command goes on with ({error})"
        return Inspection(folder, problem, None, (), _size(folder), 0, (), record)
    findings = [
        files_finding(folder, record, everything=everything),
        values_finding(_codes(plan, everything)),
    ]
    findings += [awq_finding(plan, record, reference), mtp_finding(stored.values())]
    return Inspection(
        folder,
        None,
        of_checkpoint(folder),
        tuple(_parts(plan, stored)),
        _size(folder),
        len(plan.files),
        tuple(findings),
        record,
    )


def architecture(geometry: Geometry) -> dict[str, Any]:
    """The sizes that tell models apart."""
    config = geometry.config
    kinds = config.layer_types
    return {
        "model_type": geometry.text.get("model_type", "qwen3_5_moe_text"),
        "layers": len(kinds),
        "linear_attention": kinds.count("linear_attention"),
        "full_attention": kinds.count("full_attention"),
        "hidden_size": config.hidden_size,
        "experts": config.num_experts,
        "experts_per_token": config.num_experts_per_tok,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "tied_embeddings": config.tie_word_embeddings,
    }


def _record(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _parts(plan: LoadPlan, stored: Mapping[str, StoredTensor]) -> Iterator[PartSize]:
    found: dict[str, list[tuple[str, int, int]]] = {name: [] for name in (*PARTS, "vision", "mtp")}
    counted: set[str] = set()
    for tensor in plan.tensors:
        sources = {s.stored.name: s.stored for s in tensor.sources()}
        fused = 2 if tensor.source.change in ("gate half", "up half") else 1
        nbytes = sum(s.nbytes for s in sources.values()) // fused
        how = described(tensor.spec) if tensor.spec else tensor.source.stored.dtype.lower()
        found[part_of(tensor.name)].append((how, _values(tensor) // fused, nbytes))
        counted |= sources.keys()
    for name, tensor in stored.items():
        part = "mtp" if MTP.search(name) else "vision" if VISION.search(name) else None
        if part and name not in counted:
            found[part].append((tensor.dtype.lower(), prod(tensor.shape), tensor.nbytes))
    for name, tensors in found.items():
        if tensors:
            formats: dict[str, int] = {}
            for how, _, _ in tensors:
                formats[how] = formats.get(how, 0) + 1
            yield PartSize(name, sum(t[1] for t in tensors), sum(t[2] for t in tensors), formats)


def _values(tensor: PlannedTensor) -> int:
    values = prod(tensor.source.stored.shape)
    return values if tensor.spec is None else values * 32 // tensor.spec.bits


def _codes(plan: LoadPlan, everything: bool) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """(module, bytes [n, 32] of groups' codes) of the mxfp8 matrices, sampled or all."""
    offsets: dict[Path, dict[str, int]] = {}
    for tensor in plan.tensors:
        if tensor.spec is None or tensor.spec.mode != "mxfp8":
            continue
        stored = tensor.source.stored
        if stored.file not in offsets:
            offsets[stored.file] = data_offsets(stored.file)
        first, size = offsets[stored.file][stored.name], stored.nbytes
        for start, count in _pieces(size, everything):
            with stored.file.open("rb") as file:
                file.seek(first + start)
                yield tensor.module, np.frombuffer(file.read(count), np.uint8).reshape(-1, 32)


def _pieces(size: int, everything: bool) -> Iterator[tuple[int, int]]:
    """(start, bytes) of whole groups of 32."""
    if everything or size <= SAMPLE_BYTES:
        for start in range(0, size, 8 * SAMPLE_BYTES):
            yield start, min(8 * SAMPLE_BYTES, size - start)
        return
    count = SAMPLE_BYTES // _PIECES
    for i in range(_PIECES):
        yield (size - count) * i // (_PIECES - 1) // 32 * 32, count
