"""From what `mxserve doctor` found to what a person can do about it.

Pure: facts in, sentences out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.machine import Machine

_GIB = 1 << 30
REAL_MODEL = 37 * 10**9  # bytes of the real model's weights, as its checkpoint stores them
BESIDE = 3 * _GIB  # states, caches and temporaries, at the least
FOR_THE_SYSTEM = 8 * _GIB


@dataclass(frozen=True, slots=True)
class Kernel:
    """A row of the kernel table: see model.kernels.admission.Row."""

    name: str
    admitted: bool
    reason: str
    size: str
    error: float | None
    twin_us: float | None
    kernel_us: float | None
    twin: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What was loaded. bytes: that mlx holds; dequantized: whether as float32."""

    name: str
    is_demo: bool
    layers: int
    dequantized: bool
    bytes: int


def advice(machine: Machine, model: LoadedModel | None, kernels: Sequence[Kernel]) -> list[str]:
    """Steps, the most important first; empty when there is nothing to do."""
    if machine.kind == "cpu":
        steps = _on_cpu(machine)
    elif machine.kind == "metal":
        steps = _on_metal(machine, model)
    else:
        steps = []
    return [*steps, *_about_kernels(kernels)]


def _on_cpu(machine: Machine) -> list[str]:
    steps = []
    if machine.system.startswith("macOS"):
        if machine.machine == "x86_64":
            steps.append(
                "This Python is built for Intel and runs translated, without the GPU: install one "
                "for arm64 and make the environment anew."
            )
        return steps
    if machine.blas.startswith("reference"):
        steps.append(
            "Install OpenBLAS (Debian: apt install libopenblas0-pthread): mlx's own BLAS on Linux "
            "is many times slower."
        )
    if machine.compiler is None:
        steps.append("Install g++: without it decode steps run uncompiled, which is slower.")
    steps.append(
        "The processor computes. That is for development and the demo; the real model wants a Mac "
        "with Apple Silicon."
    )
    return steps


def _on_metal(machine: Machine, model: LoadedModel | None) -> list[str]:
    weights = REAL_MODEL if model is None or model.is_demo else model.bytes
    what = "the real model" if weights == REAL_MODEL else "this model"
    needed = weights + BESIDE
    if machine.memory_total < needed + FOR_THE_SYSTEM // 2:
        return [
            f"This Mac has {machine.memory_total / _GIB:.0f} GiB; {what} takes "
            f"{needed / _GIB:.0f} GiB and does not fit."
        ]
    if machine.working_set is not None and machine.working_set < needed:
        limit = min(needed + BESIDE, machine.memory_total - FOR_THE_SYSTEM // 2) >> 20
        return [
            f"macOS lets a process hold {machine.working_set / _GIB:.1f} GiB on the GPU; {what} "
            f"takes {needed / _GIB:.1f}. Until the next restart: sudo sysctl "
            f"iogpu.wired_limit_mb={limit}"
        ]
    return []


def _about_kernels(kernels: Sequence[Kernel]) -> list[str]:
    wrong = [k.name for k in kernels if k.reason.startswith(("differs", "raised"))]
    if not wrong:
        return []
    return [
        f"Kernels that do not work on this device: {', '.join(wrong)}. Their plain forms run, "
        "which are right and slower. Please report it with the output of mxserve doctor --json."
    ]
