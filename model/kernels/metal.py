"""One launch of a Metal kernel as a value, and its run by mlx.

A kernel's wrapper decides sizes, types and threads and describes them by a `Launch`; who runs it is
a parameter, so that tests run the same launch on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx

SIMD = 32  # lanes of a simdgroup on every Apple GPU
MAX_THREADS = 1024  # of a threadgroup
MAX_TOKENS = 4  # of a row in one step: a kernel is compiled for each number of them


@dataclass(frozen=True, slots=True)
class MetalKernel:
    """The text of a kernel: `source` is the function's body, `header` what stands before it."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str
    header: str = ""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its arguments. `grid` counts threads, not threadgroups, as mlx does."""

    kernel: MetalKernel
    inputs: tuple[mx.array | float | int, ...]
    template: tuple[tuple[str, bool | int | mx.Dtype], ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    outputs: tuple[tuple[Sequence[int], mx.Dtype], ...]


Runner = Callable[[Launch], Sequence[mx.array]]


class UnsupportedError(ValueError):
    """These shapes or types are beyond the kernel; its twin takes them."""


@cache
def _built(kernel: MetalKernel) -> Any:
    return mx.fast.metal_kernel(
        name=f"mxserve_{kernel.name}",
        input_names=kernel.inputs,
        output_names=kernel.outputs,
        source=kernel.source,
        header=kernel.header,
    )


def run(launch: Launch) -> Sequence[mx.array]:
    """Adds the launch to mlx's graph. Raises what mlx raises, here or when the result is evaluated;
    RuntimeError where there is no Metal."""
    return _built(launch.kernel)(
        inputs=list(launch.inputs),
        template=list(launch.template),
        grid=launch.grid,
        threadgroup=launch.threadgroup,
        output_shapes=[tuple(shape) for shape, _ in launch.outputs],
        output_dtypes=[dtype for _, dtype in launch.outputs],
    )
