"""What a checkpoint's values and names give away: how exponents were rounded, AWQ, MTP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from model.convert.files import sha256
from model.convert.rounding import bf16_values, nearest
from model.convert.source import DTYPES, MTP, data_offsets, open_source
from model.load_plan import LoadPlan
from model.safetensors_files import StoredTensor

TOP, NOT_A_NUMBER = 0x7E, 0x7F  # E4M3 codes without sign: 448, and NaN
# Share of groups whose largest code is the top one, for Gaussian weights of all scales (measured):
# exponents rounded to nearest 0.55 (0.4 to 0.6 at one scale), rounded up 0.05, of least error 0.11.
SATURATING = 0.25
MTP_TENSORS = 19
_FUSED = re.compile(r"experts\.gate_up_proj$")

State = Literal["good", "bad", "unknown", "none"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. text: in a sentence; figures: what it rests on."""

    about: str
    state: State
    text: str
    figures: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def values_finding(codes: Iterable[tuple[str, npt.NDArray[np.uint8]]]) -> Finding:
    """How the shared exponents of mxfp8 were chosen, from codes [n, 32] of many groups."""
    groups, top, broken = 0, 0, 0
    by_module: dict[str, list[int]] = {}
    for module, block in codes:
        largest = (block & 0x7F).max(axis=1)
        broken += int((largest == NOT_A_NUMBER).sum())
        at_top = int((largest == TOP).sum())
        counts = by_module.setdefault(module, [0, 0])
        counts[0] += len(block)
        counts[1] += at_top
        groups, top = groups + len(block), top + at_top
    if not groups:
        return Finding("exponents", "none", "nothing is stored in mxfp8")
    share = top / groups
    worst = sorted(by_module, key=lambda name: -by_module[name][1] / by_module[name][0])[:3]
    figures = {
        "groups_read": groups,
        "share_at_448": round(share, 4),
        "nan_groups": broken,
        "highest": {name: round(by_module[name][1] / by_module[name][0], 4) for name in worst},
    }
    if broken:
        return Finding("exponents", "bad", f"{broken} groups hold a NaN", figures)
    percent = f"{share:.1%} of the groups reach 448"
    if share >= SATURATING:
        text = f"{percent}: exponents were rounded to nearest, and large weights are cut off; "
        return Finding("exponents", "bad", text + "converting anew halves the error", figures)
    return Finding("exponents", "good", f"{percent}: nothing is cut off", figures)


def files_finding(folder: Path, record: Mapping[str, Any] | None, *, everything: bool) -> Finding:
    """Whether the weight files are, byte by byte, those that the conversion wrote."""
    told = (record or {}).get("sha256")
    if not isinstance(told, Mapping):
        return Finding("bytes", "unknown", "no record holds digests to compare the files with")
    if not everything:
        return Finding("bytes", "unknown", "--all compares the files with the record's digests")
    there = [name for name in told if (folder / name).is_file()]
    same = {name for name in there if sha256(folder / name) == told[name]}
    wrong = [name for name in told if name not in same]
    figures = {"files": len(told), "changed": wrong}
    if wrong:
        return Finding("bytes", "bad", f"not what was written: {', '.join(wrong)}", figures)
    return Finding("bytes", "good", f"all {len(told)} files are what was written", figures)


def awq_finding(
    plan: LoadPlan, record: Mapping[str, Any] | None, reference: Path | None
) -> Finding:
    """Whether norms were divided for AWQ: by comparison with the original, by the record of the
    conversion, or not to be told."""
    norms = _norms(plan)
    statistics = {name: _statistics(values) for name, values in _by_kind(norms).items()}
    if reference is not None:
        source = open_source(reference)
        changed = [
            name
            for name, values in norms.items()
            if not np.array_equal(nearest(values), nearest(source.tensors[name].values()))
        ]
        figures = {"norms": len(norms), "changed": len(changed), "examples": changed[:3]}
        if changed:
            text = f"applied: {len(changed)} of {len(norms)} norms are not the original's"
            return Finding("AWQ", "good", text, figures | {"statistics": statistics})
        text = f"not applied: all {len(norms)} norms are the original's"
        return Finding("AWQ", "none", text, figures | {"statistics": statistics})
    told = (record or {}).get("awq")
    if isinstance(told, Mapping):
        scaled = told.get("scaled") or []
        text = (
            f"applied to {len(scaled)} tensors" if scaled else f"not applied ({told.get('mode')})"
        )
        figures = {"scaled": len(scaled), "statistics": statistics}
        return Finding("AWQ", "good" if scaled else "none", f"{text}, by its record", figures)
    text = "not to be told without a record; --reference compares the norms with the original's"
    return Finding("AWQ", "unknown", text, {"statistics": statistics})


def mtp_finding(tensors: Iterable[StoredTensor]) -> Finding:
    """Whether there is an MTP head, and in which layout."""
    found = [tensor for tensor in tensors if MTP.search(tensor.name)]
    if not found:
        return Finding("MTP", "none", "no head: nothing can be drafted by the model itself")
    original = any(_FUSED.search(tensor.name) for tensor in found)
    figures = {
        "tensors": len(found),
        "bytes": sum(tensor.nbytes for tensor in found),
        "files": sorted({tensor.file.name for tensor in found}),
        "layout": "original" if original else "MLX",
        "dtypes": sorted({tensor.dtype for tensor in found}),
    }
    if original and len(found) != MTP_TENSORS:
        text = f"expected {MTP_TENSORS} tensors of a head, found {len(found)}"
        return Finding("MTP", "bad", text, figures)
    text = f"a head of {len(found)} tensors in {figures['layout']} layout"
    return Finding("MTP", "good", f"{text}, {', '.join(figures['files'])}", figures)


def _norms(plan: LoadPlan) -> dict[str, npt.NDArray[np.float32]]:
    """Name -> values of the layers' norms as stored."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for tensor in plan.tensors:
        if tensor.name.endswith("layernorm.weight"):
            stored = tensor.source.stored
            with stored.file.open("rb") as file:
                file.seek(data_offsets(stored.file)[stored.name])
                raw: Any = np.frombuffer(file.read(stored.nbytes), DTYPES[stored.dtype])
            values = bf16_values(raw) if stored.dtype == "BF16" else raw.astype(np.float32)
            one = np.float32(tensor.source.change == "add one")
            found[tensor.name] = np.add(values, one, dtype=np.float32)
    return found


def _by_kind(norms: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    kinds: dict[str, list[npt.NDArray[np.float32]]] = {}
    for name, values in norms.items():
        kinds.setdefault(name.split(".")[-2], []).append(values)
    return {kind: np.concatenate(found) for kind, found in kinds.items()}


def _statistics(values: npt.NDArray[np.float32]) -> dict[str, float]:
    figures = _moments(values.astype(np.float64))
    return {name: round(float(value), 4) for name, value in figures}


def _moments(values: npt.NDArray[np.float64]) -> Iterator[tuple[str, float]]:
    yield "mean", values.mean()
    yield "std", values.std()
    yield "min", values.min()
    yield "max", values.max()
