"""How much MLX puts into one Metal command buffer: settings that have to be in the environment
before mlx is imported.

MLX commits a buffer when it holds a number of kernels, or when the arrays they read have a number
of elements, in units of 2^20; from 40 to 50 of both, by the chip. The experts of one layer of the
real model have some 220 such units, so it would commit several times a layer, and each costs. Here
a buffer takes about three layers. Larger ones hold temporaries longer, which a long prompt pays in
memory. Whether it pays can only be seen on a Mac; who sets a variable keeps what was set.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping, MutableMapping

OPS, ELEMENTS = "MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER"
VALUES = {OPS: 100, ELEMENTS: 640}
# Below this the real model does not fit, and mlx's own values are right for what does.
MEMORY = 40 << 30
_CHIP = re.compile(r"Apple M(\d+)(?: (?:Pro|Max|Ultra))?$")


def decide(chip: str, memory: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to set for a chip, by the name macOS gives it, and its memory in bytes: none
    that `environ` has, and none for what is no Apple M chip."""
    if _CHIP.match(chip) is None or memory < MEMORY:
        return {}
    return {name: str(value) for name, value in VALUES.items() if name not in environ}


def apply(environ: MutableMapping[str, str], *, mlx_is_loaded: bool) -> dict[str, str]:
    """Sets them in `environ` where mlx is not loaded yet; returns what was set."""
    wanted = {} if mlx_is_loaded else decide(chip_name(), memory_bytes(), environ)
    environ.update(wanted)
    return wanted


def chip_name() -> str:
    """What macOS calls the processor, such as "Apple M3 Max"; empty elsewhere."""
    return _sysctl("machdep.cpu.brand_string").split(b"\0")[0].decode(errors="replace")


def memory_bytes() -> int:
    """Physical memory of a Mac; 0 elsewhere."""
    return int.from_bytes(_sysctl("hw.memsize"), sys.byteorder)


def _sysctl(name: str) -> bytes:
    if sys.platform != "darwin":
        return b""
    library = ctypes.CDLL(None)
    buffer, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
    nothing = ctypes.c_size_t(0)
    failed = library.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, nothing)
    return b"" if failed else buffer.raw[: size.value]
