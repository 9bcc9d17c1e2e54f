"""The importance matrix: how strongly each input of each matrix was driven by a text.

In memory by the network's names and in its order; on disk as llama.cpp's GGUF form, `in_sum2` and
`counts` of every matrix (names and order are imatrix_names.py's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from model.config import ModelConfig
from model.convert.imatrix_gguf import read_gguf, write_gguf
from model.convert.imatrix_names import (
    from_gguf_order,
    gguf_name,
    inputs_of,
    module_of,
    to_gguf_order,
)
from model.convert.prescale import Floats, Importance
from model.errors import CheckpointError
from model.safetensors_files import problems_error

_SUMS: Final = ".in_sum2"
_COUNTS: Final = ".counts"


@dataclass(frozen=True, slots=True)
class Entry:
    """Of one module. sums [matrices, inputs]: squares of each input over all tokens that went
    through; counts [matrices]: how many those were, 0 for an expert that saw none. `matrices` is
    the number of experts, or 1."""

    sums: Floats
    counts: Floats

    def mean_squares(self) -> Floats | None:
        """[matrices, inputs]; an expert that saw nothing gets the mean over all tokens of the
        others, None where nobody saw anything."""
        tokens = float(self.counts.sum())
        if not tokens:
            return None
        seen = self.counts[:, None]
        overall = self.sums.sum(axis=0) / np.float32(tokens)
        means = np.where(seen > 0, self.sums / np.maximum(seen, 1), overall)
        return means.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Imatrix:
    """entries: by module. datasets: names of the texts; chunks of `chunk_size` tokens were fed.
    unknown: names in the file that no matrix of this network has."""

    entries: Mapping[str, Entry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    unknown: tuple[str, ...] = ()

    def importance(self) -> Importance:
        """Module -> mean squares, [inputs], or [experts, inputs] of routed experts; modules that
        saw nothing are left out."""
        means = {module: entry.mean_squares() for module, entry in self.entries.items()}
        return {
            module: found if _is_routed(module) else found[0]
            for module, found in means.items()
            if found is not None
        }

    def missing(self, config: ModelConfig) -> list[str]:
        """The matrices of the network that it says nothing of; the output head, which llama.cpp
        leaves out by default, is not counted."""
        known = self.importance()
        return [m for m in inputs_of(config) if m not in known and m != "lm_head"]

    def unseen_experts(self) -> dict[str, int]:
        """Module -> how many of its experts saw no token; modules without such are left out."""
        unseen = {m: int((entry.counts == 0).sum()) for m, entry in self.entries.items()}
        return {module: count for module, count in unseen.items() if count}


def read_imatrix(path: Path, config: ModelConfig) -> Imatrix:
    """Reads the GGUF form. Raises CheckpointError for a file that is damaged, is no imatrix, does
    not fit the network, or holds values that cannot be."""
    metadata, tensors = read_gguf(path)
    if (kind := metadata.get("general.type", "imatrix")) != "imatrix":
        raise CheckpointError(f"{path}: general.type: expected imatrix, found {kind!r}")
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if not names:
        raise CheckpointError(f"{path}: expected tensors named …{_SUMS}, found {_few(tensors)}")
    shapes = inputs_of(config)
    check = _Check(path, tensors)
    entries: dict[str, Entry] = {}
    unknown: list[str] = []
    for name in names:
        module = module_of(name)
        if module is None or module not in shapes:
            unknown.append(name)
            continue
        entry = check.entry(name, *shapes[module])
        if entry is not None:
            sums = from_gguf_order(module, entry.sums, config)
            entries[module] = Entry(sums, entry.counts)
    if check.problems:
        raise problems_error(path, "an imatrix that does not fit the model", check.problems)
    if not entries:
        raise CheckpointError(
            f"{path}: expected names such as {gguf_name(next(iter(shapes)))}, found "
            f"{_few(unknown)}: made for another kind of model"
        )
    return Imatrix(
        entries,
        tuple(str(name) for name in _list(metadata.get("imatrix.datasets"))),
        int(metadata.get("imatrix.chunk_count", 0)),
        int(metadata.get("imatrix.chunk_size", 0)),
        tuple(unknown),
    )


def read_importance(path: Path, config: ModelConfig) -> Importance:
    """What a file says, as the quantizers take it. Raises as read_imatrix()."""
    return read_imatrix(path, config).importance()


def write_imatrix(path: Path, imatrix: Imatrix, config: ModelConfig) -> None:
    """Writes the GGUF form, sorted by name. Raises ValueError for a module that has no name there,
    OSError where it cannot be written."""
    tensors: dict[str, Floats] = {}
    for module, entry in imatrix.entries.items():
        name = gguf_name(module)
        if name is None:
            raise ValueError(f"{module}: not a matrix that an imatrix names")
        tensors[name + _SUMS] = to_gguf_order(module, entry.sums, config)
        tensors[name + _COUNTS] = entry.counts[:, None]
    metadata = {
        "general.type": "imatrix",
        "imatrix.datasets": list(imatrix.datasets),
        "imatrix.chunk_count": imatrix.chunk_count,
        "imatrix.chunk_size": imatrix.chunk_size,
    }
    write_gguf(path, metadata, dict(sorted(tensors.items())))


class _Check:
    """Takes entries out of a file's tensors and notes every problem."""

    def __init__(self, path: Path, tensors: Mapping[str, Floats]) -> None:
        self.problems: list[str] = []
        self._path, self._tensors = path, tensors

    def entry(self, name: str, matrices: int, inputs: int) -> Entry | None:
        sums, counts = self._tensors[name + _SUMS], self._tensors.get(name + _COUNTS)
        if counts is None:
            return self._problem(name + _COUNTS, f"[{matrices}, 1]", "nothing")
        if sums.size != matrices * inputs or sums.shape[-1] != inputs:
            return self._problem(name + _SUMS, f"[{matrices}, {inputs}]", str(list(sums.shape)))
        if counts.size != matrices:
            return self._problem(name + _COUNTS, f"[{matrices}, 1]", str(list(counts.shape)))
        for suffix, values in ((_SUMS, sums), (_COUNTS, counts)):
            if not np.isfinite(values).all() or values.min(initial=0) < 0:
                return self._problem(name + suffix, "finite values from 0 on", "others")
        return Entry(sums.reshape(matrices, inputs), counts.reshape(matrices))

    def _problem(self, name: str, expected: str, found: str) -> None:
        self.problems.append(f"{name}: expected {expected}, found {found}")


def _is_routed(module: str) -> bool:
    return ".switch_mlp." in module


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _few(names: Mapping[str, Any] | list[str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "") if shown else "nothing"
