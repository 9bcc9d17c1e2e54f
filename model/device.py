"""Which device computes, how much memory it has, and which BLAS serves the CPU.

Importing this module makes OpenBLAS's symbols global before mlx is loaded: mlx's Linux wheel
carries the reference BLAS, which is some ninety times slower. On a Mac it sets what mlx reads from
the environment (command_buffers.py). Hence no mlx import comes before that, and
`model/__init__.py` imports this module first. Knows nothing about models.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from model import command_buffers

if TYPE_CHECKING:
    import mlx.core as mx

_OPENBLAS = "libopenblas.so.0"
_NO_LIMIT = 1 << 60  # cgroup v1 writes a number near 2^63 where there is no limit


@cache
def load_blas() -> str:
    """Loads OpenBLAS on Linux where it is installed; returns the name of the BLAS that runs.

    Only of use before `mlx.core` is imported for the first time; after that the BLAS is settled.
    """
    if sys.platform == "darwin":
        return "Accelerate"
    if not sys.platform.startswith("linux"):
        return "mlx's own"
    if "mlx.core" in sys.modules:
        return "OpenBLAS" if _is_mapped("libopenblas") else "reference BLAS"
    try:
        library = ctypes.CDLL(_OPENBLAS, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return "reference BLAS (slow; install OpenBLAS)"
    return _openblas_name(library)


def _openblas_name(library: ctypes.CDLL) -> str:
    try:
        config = library.openblas_get_config
    except AttributeError:  # some distributions leave it out
        return "OpenBLAS"
    config.restype = ctypes.c_char_p
    return " ".join(config().decode(errors="replace").split()[:2])


def _is_mapped(name: str) -> bool:
    try:
        return name in Path("/proc/self/maps").read_text()
    except OSError:
        return False


_BLAS = load_blas()
# The variables set here, for mlx to read.
COMMAND_BUFFERS = command_buffers.apply(os.environ, mlx_is_loaded="mlx.core" in sys.modules)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The device that computes. Memory in bytes; `blas` serves matrix products on the CPU."""

    kind: Literal["cpu", "metal", "cuda"]
    name: str
    compute_dtype: mx.Dtype
    memory_total: int
    memory_available: int
    blas: str


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that mlx holds now, the most it held, and how many it may hold here."""

    active_bytes: int
    peak_bytes: int
    limit_bytes: int


def memory(limit_bytes: int) -> Memory:
    """The figures now, beside a limit found at the start."""
    import mlx.core as mx

    return Memory(mx.get_active_memory(), mx.get_peak_memory(), limit_bytes)


def free_spare_memory() -> int:
    """Gives the system what mlx keeps for reuse; returns the bytes that arrays still hold."""
    import mlx.core as mx

    mx.clear_cache()
    return mx.get_active_memory()


def claim_memory() -> str | None:
    """On Metal: what is in use stays in physical memory, up to the working set that the system
    recommends, and mlx gives its spare buffers back before it goes past that; to it a limit is a
    guideline, so who admits work has to keep below. Returns what to log, None elsewhere."""
    import mlx.core as mx

    if mx.default_device() == mx.Device(mx.cpu) or not mx.metal.is_available():
        return None
    usable = int(mx.device_info(mx.default_device())["max_recommended_working_set_size"])
    mx.set_memory_limit(usable)
    try:
        mx.set_wired_limit(usable)
    except (RuntimeError, ValueError) as error:  # before macOS 15, or more than the system allows
        return f"memory limit {usable >> 20} MiB; not wired: {error}"
    return f"memory limit {usable >> 20} MiB, wired"


def current() -> DeviceInfo:
    """mlx's default device now: float32 on a CPU, bfloat16 elsewhere."""
    import mlx.core as mx

    if mx.default_device() == mx.Device(mx.cpu):
        total, available = _system_memory()
        return DeviceInfo("cpu", _cpu_name(), mx.float32, total, available, _BLAS)
    info = mx.device_info(mx.default_device())
    name = str(info.get("device_name", "GPU"))
    if mx.metal.is_available():
        total = int(info["memory_size"])
        # The working set Metal recommends is what a process gets before the system swaps.
        usable = int(info["max_recommended_working_set_size"])
        available = max(usable - mx.get_active_memory(), 0)
        return DeviceInfo("metal", name, mx.bfloat16, total, available, _BLAS)
    system_total, system_available = _system_memory()
    total = int(info.get("total_memory", system_total))
    available = int(info.get("free_memory", min(total, system_available)))
    return DeviceInfo("cuda", name, mx.bfloat16, total, available, _BLAS)


def _cpu_name() -> str:
    import mlx.core as mx

    return str(mx.device_info(mx.Device(mx.cpu)).get("device_name") or platform.machine())


def _system_memory() -> tuple[int, int]:
    """(total, available) bytes, a container's limit included."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = _meminfo(Path("/proc/meminfo"))
    total = info.get("MemTotal", pages)
    available = info.get("MemAvailable", total)
    limit, used = _container_memory(Path("/sys/fs/cgroup"))
    if limit is not None and limit < total:
        total, available = limit, min(available, max(limit - used, 0))
    return total, available


def _meminfo(path: Path) -> dict[str, int]:
    """Name -> bytes of Linux's memory table; empty where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) == 3 and f[2] == "kB"}


def _container_memory(root: Path) -> tuple[int | None, int]:
    """(limit, used without page cache) bytes of the control group, v2 or v1; None is no limit."""
    for limit_file, used_file, stat_key, stat_file in (
        ("memory.max", "memory.current", "inactive_file", "memory.stat"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
            "memory/memory.stat",
        ),
    ):
        try:
            text = (root / limit_file).read_text().strip()
            used = int((root / used_file).read_text())
            stat = (root / stat_file).read_text()
        except (OSError, ValueError):
            continue
        if not text.isdigit() or int(text) >= _NO_LIMIT:
            return None, used
        words = stat.split()
        cached = int(words[words.index(stat_key) + 1]) if stat_key in words else 0
        return int(text), max(used - cached, 0)
    return None, 0
