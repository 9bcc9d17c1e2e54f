"""The safetensors files of a folder: which there are, and what their headers say.

Reads headers only. The `safetensors` package does the reading because it refuses damaged files
(mlx accepts some, trailing bytes for one). Knows nothing about the model.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .errors import CheckpointError
from .json_keys import Section

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LISTED = 8  # problems spelled out in one message
_SAMPLES, _SAMPLE_BYTES = 16, 4096
_ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4} | dict.fromkeys(
    ("F16", "BF16", "I16", "U16"), 2
)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor as a header describes it; `dtype` in the format's own spelling (BF16, U32)."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _ITEM_BYTES.get(self.dtype, 1)


def problems_error(folder: Path, what: str, problems: list[str]) -> CheckpointError:
    """One error for a list of problems, the first few spelled out."""
    problems = list(dict.fromkeys(problems))
    more = len(problems) - _LISTED
    lines = problems[:_LISTED] + ([f"... and {more} more"] if more > 0 else [])
    return CheckpointError("\n  ".join([f"{folder}: {what}:", *lines]))


def weight_files(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[list[Path], dict[str, str]]:
    """(files with weights, tensor -> file name as the index says; empty without an index). Where an
    index says so, files without a tensor whose name is `wanted` are left out, and need not be
    there.

    Raises CheckpointError when there are none, or when the index names one that is not there.
    """
    index = folder / INDEX
    if not index.exists():
        single = folder / SINGLE
        files = [single] if single.exists() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder}: expected {SINGLE} or {INDEX}, found neither")
        return files, {}
    section = Section.from_file(index).section("weight_map")
    where = {tensor: section.string(tensor) for tensor in section.values if wanted(tensor)}
    for tensor, file in where.items():
        if "/" in file or "\\" in file or not file.endswith(".safetensors"):
            raise section.error(tensor, "the name of a safetensors file in this folder", file)
    names = sorted(set(where.values()))
    if not section.values:
        raise CheckpointError(f"{index}: weight_map: expected tensors, found none")
    missing = [
        f"{name}: expected by {INDEX}, not found" for name in names if not (folder / name).is_file()
    ]
    if missing:
        raise problems_error(folder, "files are missing", missing)
    return [folder / name for name in names], where


def stored_tensors(
    folder: Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, StoredTensor]:
    """Name -> tensor over all weight files of the folder, or the `wanted` ones of them; see
    weight_files(). `folder` may be a single file.

    Raises CheckpointError for a file that is damaged in any way its header can show, for a tensor
    found twice, and for one that is not where the index says.
    """
    files, index = ([folder], {}) if folder.is_file() else weight_files(folder, wanted)
    tensors: dict[str, StoredTensor] = {}
    problems: list[str] = []
    for file in files:
        try:
            found = _read_header(file)
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            problems.append(
                f"{file.name}: expected a whole safetensors file, found {size:,} bytes that are "
                f"none ({error})"
            )
            continue
        for tensor in filter(lambda tensor: wanted(tensor.name), found):
            if tensor.name in tensors:
                first = tensors[tensor.name].file.name
                problems.append(f"{file.name}: {tensor.name}: expected once, also in {first}")
            tensors[tensor.name] = tensor
    if problems:
        raise problems_error(folder, "damaged files", problems)
    for name, file_name in index.items():
        if name not in tensors or tensors[name].file.name != file_name:
            there = tensors[name].file.name if name in tensors else "no file"
            problems.append(f"{file_name}: {name}: expected here by {INDEX}, found in {there}")
    if problems:
        raise problems_error(folder, f"{INDEX} does not fit the files", problems)
    return tensors


def _read_header(file: Path) -> list[StoredTensor]:
    with safe_open(str(file), framework="numpy") as opened:
        slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118
        return [
            StoredTensor(file, name, part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices
        ]


def fingerprint(folder: Path) -> str:
    """A short stable name for the contents of a checkpoint, without reading all of it.

    Covers config.json, the names, sizes and headers of the weight files, and samples of their data.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in weight_files(folder)[0]:
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as opened:
            head = opened.read(8)
            length = int.from_bytes(head, "little")
            digest.update(head + opened.read(min(length, size)))
            for i in range(_SAMPLES):
                opened.seek(8 + length + (size - 8 - length) * i // _SAMPLES)
                digest.update(opened.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
