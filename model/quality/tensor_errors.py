"""How far the matrices of a checkpoint are from the reference's, by themselves and at work.

A matrix that was pre-scaled together with the norm before it (AWQ) is compared with the scale taken
out again, as the two norms tell it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from model.config import QuantSpec
from model.convert.awq_groups import norm_of
from model.convert.prescale import Floats, Importance
from model.load_plan import PlannedTensor
from model.quality.streaming import StreamedCheckpoint


@dataclass(frozen=True, slots=True)
class TensorError:
    """stored: its format in words. weight_error: the norm of the difference by that of the
    reference. output_error: the same of the matrix' outputs, from the second moments of its inputs
    as if these were independent; None where nothing is known of them."""

    name: str
    stored: str
    weight_error: float
    output_error: float | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def layer_errors(
    reference: StreamedCheckpoint,
    other: StreamedCheckpoint,
    prefix: str,
    importance: Importance,
) -> Iterator[TensorError]:
    """Of every matrix whose name begins with `prefix`; one of each checkpoint is in memory."""
    norms = norm_of(reference.config)
    for name, tensor in other.planned().items():
        if tensor.kind != "matrix" or not name.startswith(prefix):
            continue
        exact, found = reference.tensor(name), other.tensor(name)
        if (norm := norms.get(tensor.module)) is not None:
            found = found * _taken_out(reference.tensor(norm), other.tensor(norm))
        moments = importance.get(tensor.module)
        yield TensorError(
            name,
            stored_as(tensor),
            _relative(exact, found, None),
            None if moments is None else _relative(exact, found, moments),
        )


def stored_as(tensor: PlannedTensor) -> str:
    """The format of a tensor in words: `mxfp8`, `affine8 g64`, `BF16`."""
    if tensor.spec is None:
        return tensor.source.stored.dtype
    return spec_text(tensor.spec)


def spec_text(spec: QuantSpec) -> str:
    """The same of a format."""
    return f"affine{spec.bits} g{spec.group_size}" if spec.mode == "affine" else spec.mode


def _taken_out(reference: mx.array, norm: mx.array) -> mx.array:
    """[in]: what the columns behind `norm` are multiplied with to be those behind `reference`."""
    return mx.where(reference == 0, 1, norm / mx.where(reference == 0, 1, reference))


def _relative(exact: mx.array, found: mx.array, moments: Floats | None) -> float:
    """Of matrices [..., in]; moments [in] or [experts, in] weigh the columns."""
    squares = _column_squares(found - exact), _column_squares(exact)
    weights = 1.0 if moments is None else moments.astype(np.float64)
    error, energy = (float((columns * weights).sum()) for columns in squares)
    return float(np.sqrt(error / energy)) if energy else float(error > 0)


def _column_squares(matrix: mx.array) -> np.ndarray:
    """[..., out, in] -> float64 [..., in]."""
    return np.array((matrix * matrix).sum(axis=-2), np.float64)
