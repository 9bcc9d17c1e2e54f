"""How long the host needs to call a decode step, measured on a network without weights.

The time goes by the number of primitives, not by sizes, so a network of small widths stands for the
real one of as many layers. Nothing is computed: what is timed is the call of the compiled step, up
to the lazy result. Encoding the kernels, which Metal does on the host too, is not in it.
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import mlx.core as mx

from model.geometry import Geometry
from model.kernels import Kernels
from model.launches.blank_step import BlankStep
from model.launches.decode import CONTEXT, GREEDY, every_kernel
from model.launches.stand_ins import StandIns

WARM_CALLS = 3


def host_times(geometry: Geometry, count: int, *, as_metal: bool, on_gpu: bool) -> list[float]:
    """Microseconds of each of `count` calls. as_metal: the step as it would be traced for Metal
    with every kernel admitted, one node for each of Metal's kernels; else as it runs here."""
    stand_ins = StandIns(compile=False)
    step = BlankStep.of(
        geometry,
        geometry.config.layer_types,
        on_gpu=on_gpu or as_metal,
        kernels=every_kernel(stand_ins) if as_metal else Kernels.plain(),
        context=CONTEXT,
        sampling=GREEDY,
    )
    token = mx.array([0], mx.int32)
    mx.eval(token)
    with stand_ins.installed() if as_metal else nullcontext():
        for _ in range(WARM_CALLS):  # the first call traces
            step(token)
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        result = step(token)
        found.append((time.perf_counter() - begin) * 1e6)
        del result
    return found
