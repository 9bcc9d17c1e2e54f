"""Compares a kernel, run on the CPU, with its twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from tests.model.kernels.examples import Arguments, in_float32
from tests.model.kernels.metal_on_cpu import Recorder

TYPES = [mx.float32, mx.bfloat16]
# Of the largest value of an output: the kernels compute in float32 and round once, some an
# intermediate result too.
TOLERANCE = {mx.float32: 2e-5, mx.bfloat16: 2**-7}
SEEDS = (1, 2)


def agree(
    twin: Callable[..., Any],
    kernel: Callable[..., Any],
    args: Arguments,
    *,
    exact: Sequence[int] = (),
    wide: Arguments | None = None,
) -> None:
    """Every output of the kernel is that of the twin with float32 arguments (`wide`, where those
    are not simply `args`), but for rounding to its own type; outputs numbered in `exact` are those
    of the twin itself, bit by bit; any order of the threads gives the same bits."""
    orders = [_tuple(kernel(**args, runner=Recorder(seed))) for seed in SEEDS]
    for first, second in zip(*orders, strict=True):
        assert np.array_equal(_raw(first), _raw(second)), "depends on the order of the threads"
    same, true = _tuple(twin(**args)), _tuple(twin(**(wide or in_float32(args))))
    for place, (got, own, want) in enumerate(zip(orders[0], same, true, strict=True)):
        assert got.shape == own.shape, place
        assert got.dtype == own.dtype, place
        if place in exact:
            assert np.array_equal(_raw(got), _raw(own)), place
            continue
        error = float(mx.abs(got.astype(mx.float32) - want).max())
        scale = max(float(mx.abs(want).max()), 1e-6)
        limit = TOLERANCE[got.dtype] * scale
        assert error <= limit, f"output {place} differs by {error / scale:.1e}"


def _tuple(outputs: Any) -> tuple[mx.array, ...]:
    return (outputs,) if isinstance(outputs, mx.array) else tuple(outputs)


def _raw(x: mx.array) -> np.ndarray:
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)
