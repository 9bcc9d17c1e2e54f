"""Loads the MTP head: the `mtp.*` tensors of a checkpoint, or of a side file that holds only them.

They go the way of all other tensors (layout, plan, loader), so they are checked and refused in the
same words. Knows files and arrays, nothing of how the head is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from model.checkpoint import load_planned
from model.config import ModelConfig, QuantSpec
from model.errors import CheckpointError
from model.joining import layer_joins
from model.layout import arrange, arrange_mtp, is_mtp, is_norm
from model.load_plan import LoadPlan, plan_arranged
from model.safetensors_files import StoredTensor, stored_tensors
from model.tensors import expected_mtp_tensors

LAYER = "mtp.layers.0"
_LEAST_SCALE = 0.5  # of a norm that is stored with its one, on average


@dataclass(frozen=True, slots=True)
class MtpWeights:
    """An ArraySource with the head's arrays, evaluated; names as in the network."""

    arrays: dict[str, mx.array]
    quantized: dict[str, QuantSpec]


def plan_mtp(folder: Path, config: ModelConfig, side: Path | None = None) -> LoadPlan | None:
    """What to load of the head: from `side`, a safetensors file or a folder, or from the checkpoint
    `folder`; None where that holds none.

    Raises CheckpointError where a tensor is missing, unexpected or wrong, or `side` holds none.
    """
    if side is None:
        everything = stored_tensors(folder)
        stored = [tensor for tensor in everything.values() if is_mtp(tensor.name)]
        if not stored:
            return None
        trunk = arrange(everything.values(), tied=config.tie_word_embeddings)
        add_one = trunk.original or _lacks_one(stored)
    else:
        if not side.exists():
            raise CheckpointError(f"{side}: no such file or folder")
        stored = list(stored_tensors(side, is_mtp).values())
        if not stored:
            raise CheckpointError(f"{side}: expected mtp.* tensors, found none")
        add_one = _lacks_one(stored)
    arrangement = arrange_mtp(stored, add_one=add_one)
    return plan_arranged(side or folder, config, arrangement, expected_mtp_tensors(config), stored)


def load_mtp(
    plan: LoadPlan, config: ModelConfig, *, compute_dtype: mx.Dtype, dequantize: bool
) -> MtpWeights:
    """The arrays of a plan; floats become `compute_dtype`, packed matrices only with
    `dequantize`."""
    specs = {} if dequantize else {tensor.module: tensor.spec for tensor in plan.tensors}
    joined = layer_joins(config, LAYER, "full_attention", specs.get)
    arrays, quantized = load_planned(plan, joined, compute_dtype, dequantize=dequantize)
    return MtpWeights(arrays, quantized)


def extract_mtp(source: Path, target: Path) -> int:
    """Writes the `mtp.*` tensors of the folder `source` as they are into the safetensors file
    `target`; reads only the files that hold them. Returns how many there are. Raises
    CheckpointError."""
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    stored = list(stored_tensors(source, is_mtp).values())
    if not stored:
        raise CheckpointError(f"{source}: expected mtp.* tensors, found none")
    arrays = {f"mtp.{name.split('mtp.', 1)[1]}": array for name, array in _read(stored).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial.safetensors")
    mx.save_safetensors(str(partial), arrays, metadata={"format": "mlx"})
    partial.replace(target)
    return len(arrays)


def _lacks_one(stored: Iterable[StoredTensor]) -> bool:
    """Whether the head's norms are stored minus one, as the original repository stores them.

    Converters leave `mtp.*` as it was, or add the one, and no name or header tells. A norm scales
    by 1 + w; of w, which training starts at 0, some of the seven are small on average, while a
    scale below one half on average is none that a network was trained to.
    """
    norms = [tensor for tensor in stored if is_norm(tensor.name) and len(tensor.shape) == 1]
    means = [float(array.astype(mx.float32).mean()) for array in _read(norms).values()]
    return bool(means) and min(means) < _LEAST_SCALE


def _read(stored: Iterable[StoredTensor]) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    by_file: dict[Path, list[str]] = {}
    for tensor in stored:
        by_file.setdefault(tensor.file, []).append(tensor.name)
    for file, names in by_file.items():
        loaded: Any = mx.load(str(file))
        found |= {name: loaded[name] for name in names}
    return found
