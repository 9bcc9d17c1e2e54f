"""What `mxserve doctor` reports of the machine: system, device, libraries, limits, as plain values.

Loads no model. A figure that a device does not tell is None.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import mlx.core as mx

from model import command_buffers, device

PACKAGES = ("mxserve", "mlx", "tokenizers", "numpy", "llguidance")


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes. chip: the processor's or GPU's name; architecture: what Metal calls it;
    working_set: what macOS recommends one process to hold on the GPU; command_buffers: mlx's
    variables as they are now; command_buffers_by: who set them; compiler: the path of g++."""

    system: str
    machine: str
    python: str
    versions: dict[str, str]
    kind: str
    chip: str
    architecture: str | None
    compute_dtype: str
    memory_total: int
    memory_available: int
    working_set: int | None
    blas: str
    compiler: str | None
    command_buffers: dict[str, str]
    command_buffers_by: str

    @staticmethod
    def now() -> Machine:
        """This one."""
        info = device.current()
        metal = mx.device_info(mx.default_device()) if info.kind == "metal" else {}
        working_set = metal.get("max_recommended_working_set_size")
        names = tuple(command_buffers.VALUES)
        return Machine(
            system=platform.platform(),
            machine=platform.machine(),
            python=sys.version.split()[0],
            versions={name: found for name in PACKAGES if (found := _version(name))},
            kind=info.kind,
            chip=command_buffers.chip_name() or info.name,
            architecture=str(metal["architecture"]) if "architecture" in metal else None,
            compute_dtype=str(info.compute_dtype).removeprefix("mlx.core."),
            memory_total=info.memory_total,
            memory_available=info.memory_available,
            working_set=None if working_set is None else int(working_set),
            blas=info.blas,
            compiler=shutil.which("g++"),
            command_buffers={name: os.environ[name] for name in names if name in os.environ},
            command_buffers_by=_by(names),
        )


def _by(names: tuple[str, ...]) -> str:
    given = [name for name in names if name in os.environ]
    if not given:
        return "mlx"
    return "mxserve" if set(given) <= set(device.COMMAND_BUFFERS) else "the environment"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
