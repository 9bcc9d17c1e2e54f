"""Pre-scaling (AWQ, Lin et al. 2023): inputs that are driven strongly get larger weights, and the
norm before them gets smaller by as much, so that quantization spares what matters.

All consumers of a norm are scaled together, so the network computes the same. A scale is the root
mean square of each input to some power. Powers are tried for each norm on some rows of its
consumers, and the best is applied only where it lowers the error of other rows' outputs too. What
was done is told of every norm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from model.convert.awq_error import Sample, sampled
from model.convert.awq_groups import NormGroup, norm_groups
from model.convert.prescale import Floats, Importance, Scaling
from model.convert.recipe import Recipe
from model.convert.rounding import bf16_values, nearest
from model.convert.source import Source
from model.errors import CheckpointError

ALPHAS: Final = (0.25, 0.5, 0.75, 1.0)
LEAST_GAIN: Final = 0.02  # of the squared error; less may be the luck of a few roundings
_QUIETEST: Final = 1e-3  # of the mean root mean square: what was never driven is not blown up

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """scalings: by tensor name. report: for each norm, in order, whether it was applied and why
    not, or the power, the span of the factors, and the errors of its consumers before and after.
    """

    scalings: Mapping[str, Scaling]
    report: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """inputs [in]: what the columns are multiplied with. norm [in]: what the norm is."""

    alpha: float
    powers_of_two: bool
    inputs: Floats
    norm: Floats


def plan_prescaling(
    source: Source,
    recipe: Recipe,
    importance: Importance,
    *,
    least_gain: float = LEAST_GAIN,
    progress: Progress | None = None,
) -> Plan:
    """Which norms to scale, and by what. `progress(norms done, norms)`.

    A norm is scaled where the squared errors of its consumers' outputs, each by its own energy and
    averaged, fall by more than `least_gain` of themselves. Raises CheckpointError where the imatrix
    says nothing of any consumer of any norm.
    """
    groups = norm_groups(source.config)
    if not any(module in importance for group in groups for module in group.consumers):
        raise CheckpointError(
            f"the imatrix has no entry for any matrix that AWQ could scale, such as "
            f"{groups[0].consumers[0]}: expected one made for this model"
        )
    scalings: dict[str, Scaling] = {}
    report: list[dict[str, Any]] = []
    for done, group in enumerate(groups, 1):
        line, found = _plan_group(source, recipe, importance, group, least_gain)
        report.append({"norm": group.norm, **line})
        if found is not None:
            scalings |= _scalings(source, group, found)
        if progress is not None:
            progress(done, len(groups))
    return Plan(scalings, report)


def in_words(report: Sequence[Mapping[str, Any]]) -> list[str]:
    """A report in a few lines: how many norms were scaled, and why others were not."""
    applied = sum(line["applied"] for line in report)
    lines = [f"AWQ: {applied} of {len(report)} norms are scaled with all their consumers"]
    reasons = Counter(line["why"] for line in report if "error" not in line and "why" in line)
    lines += [f"AWQ: {count} norms left: {why}" for why, count in reasons.items()]
    if lost := sum("error" in line and not line["applied"] for line in report):
        lines.append(f"AWQ: {lost} norms left: no scale lowers the error of their consumers")
    return lines


def _plan_group(
    source: Source, recipe: Recipe, importance: Importance, group: NormGroup, least_gain: float
) -> tuple[dict[str, Any], _Candidate | None]:
    """(the report's line, what to apply)."""
    tensors = {module: source.tensors[f"{module}.weight"] for module in group.consumers}
    specs = {module: recipe.decide(module, tensor.shape) for module, tensor in tensors.items()}
    if not any(specs.values()):
        return _left("no consumer is quantized"), None
    missing = [module for module in group.consumers if module not in importance]
    if missing:
        return _left(f"the imatrix has no entry for {', '.join(missing)}"), None
    norm = source.tensors[group.norm].values()
    samples = [
        sampled(tensor, specs[module], importance[module]) for module, tensor in tensors.items()
    ]
    tried, held_out = ([sample.half(odd) for sample in samples] for odd in (False, True))
    scales = _candidates(norm, importance[group.consumers[0]])
    best = min(scales, key=lambda scale: _mean(_errors(tried, scale)))
    before = {sample.module: sample.error(None, _rounding(norm)) for sample in held_out}
    after = _errors(held_out, best)
    gain = 1 - _mean(after) / _mean(before) if _mean(before) else 0.0
    if gain <= least_gain:
        reason = f"the best of {len(scales)} scales changes the squared error by {-gain:+.2%}"
        return _left(reason) | {"error": _root(_mean(before))}, None
    return _applied(best, before, after, samples), best


def _candidates(norm: Floats, moments: Floats) -> list[_Candidate]:
    """Scales of the inputs behind a norm; `moments` are their mean squares."""
    driven = np.sqrt(moments.astype(np.float64))
    driven = np.maximum(driven, max(_QUIETEST * float(driven.mean()), np.finfo(np.float32).tiny))
    found: list[_Candidate] = []
    for alpha in ALPHAS:
        scale = driven**alpha
        scale /= np.sqrt(scale.max() * scale.min())
        for powers_of_two in (False, True):
            wanted = np.exp2(np.rint(np.log2(scale))) if powers_of_two else scale
            found.append(_candidate(alpha, powers_of_two, norm, wanted.astype(np.float32)))
    return found


def _candidate(alpha: float, powers_of_two: bool, norm: Floats, wanted: Floats) -> _Candidate:
    """With the norm as bfloat16 will hold it, and inputs that make up for just that."""
    divided = bf16_values(nearest(norm / wanted))
    usable = (divided != 0) & np.isfinite(divided)
    inputs = np.where(usable, norm / np.where(usable, divided, 1), 1).astype(np.float32)
    return _Candidate(alpha, powers_of_two, inputs, np.where(usable, divided, norm))


def _errors(samples: list[Sample], candidate: _Candidate) -> dict[str, float]:
    return {sample.module: sample.error(candidate.inputs) for sample in samples}


def _rounding(norm: Floats) -> Floats | None:
    """[in]: what bfloat16 makes of an unscaled norm, by the norm; None where it is exact."""
    rounded = bf16_values(nearest(norm))
    if np.array_equal(rounded, norm):
        return None
    return np.where(norm == 0, 1, rounded / np.where(norm == 0, 1, norm)).astype(np.float32)


def _scalings(source: Source, group: NormGroup, found: _Candidate) -> dict[str, Scaling]:
    norm = source.tensors[group.norm].values()
    factors = np.where(norm == 0, 1, found.norm / np.where(norm == 0, 1, norm))
    scalings = {f"{module}.weight": Scaling(inputs=found.inputs) for module in group.consumers}
    return {group.norm: Scaling(outputs=factors.astype(np.float32)), **scalings}


def _left(reason: str) -> dict[str, Any]:
    return {"applied": False, "why": reason}


def _applied(
    found: _Candidate, before: dict[str, float], after: dict[str, float], samples: list[Sample]
) -> dict[str, Any]:
    return {
        "applied": True,
        "alpha": found.alpha,
        "powers_of_two": found.powers_of_two,
        "largest_factor": float(found.inputs.max()),
        "smallest_factor": float(found.inputs.min()),
        "error": _root(_mean(before)),
        "error_after": _root(_mean(after)),
        "tensors": {
            sample.module: {
                "stored": "bf16" if sample.spec is None else sample.spec.mode,
                "error": _root(before[sample.module]),
                "error_after": _root(after[sample.module]),
            }
            for sample in samples
        },
    }


def _mean(errors: Mapping[str, float]) -> float:
    return float(np.mean(list(errors.values())))


def _root(squared: float) -> float:
    return float(np.sqrt(squared))
