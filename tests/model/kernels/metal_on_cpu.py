"""Runs a launch of a Metal kernel on the CPU: compiled by g++ against metal_on_cpu.h."""

from __future__ import annotations

import ctypes
import getpass
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from model.kernels.metal import MAX_THREADS, SIMD, Launch

HEADER = Path(__file__).with_name("metal_on_cpu.h")
FLAGS = ["-std=c++17", "-O1", "-w", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-ipa-reference"]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")

ATTRIBUTES = {
    "thread_position_in_grid": (
        "uint3",
        "{at.x * group.x + place.x, at.y * group.y + place.y, at.z * group.z + place.z}",
    ),
    "thread_position_in_threadgroup": ("uint3", "place"),
    "threadgroup_position_in_grid": ("uint3", "at"),
    "threadgroups_per_grid": (
        "uint3",
        "{grid.x / group.x, grid.y / group.y, grid.z / group.z}",
    ),
    "threads_per_grid": ("uint3", "grid"),
    "threads_per_threadgroup": ("uint3", "group"),
    "thread_index_in_threadgroup": ("uint", "index"),
    "thread_index_in_simdgroup": ("uint", "index % 32"),
    "simdgroup_index_in_threadgroup": ("uint", "index / 32"),
    "simdgroups_per_threadgroup": ("uint", "(group.x * group.y * group.z + 31) / 32"),
}
TYPES = {
    mx.float32: "float",
    mx.bfloat16: "bfloat16_t",
    mx.int32: "int",
    mx.uint32: "uint",
    mx.uint8: "uint8_t",
    mx.bool_: "bool",
}


class MetalError(Exception):
    """What the kernel did wrong."""


def run(launch: Launch, seed: int = 1) -> list[mx.array]:
    """The launch's outputs; `seed` orders the threads. Raises MetalError, and AssertionError for a
    launch that mlx or a GPU would refuse."""
    inputs = [_as_array(value) for value in launch.inputs]
    _check(launch)
    library = _compiled(_program(launch, inputs))
    raw = [_bytes(x) for x in inputs]
    outputs = [np.full(prod(shape) * dtype.size, 0xFF, np.uint8) for shape, dtype in launch.outputs]
    buffers = [*raw, *outputs]
    library.message.restype = ctypes.c_char_p
    failed = library.run(
        (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers)),
        (ctypes.c_size_t * len(buffers))(*(b.size for b in buffers)),
        (ctypes.c_uint * 3)(*launch.grid),
        (ctypes.c_uint * 3)(*launch.threadgroup),
        ctypes.c_uint64(seed),
    )
    if failed:
        raise MetalError(library.message().decode())
    return [
        _from_bytes(data, shape, dtype)
        for data, (shape, dtype) in zip(outputs, launch.outputs, strict=True)
    ]


class Recorder:
    """A runner that keeps the launches it was given."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.launches: list[Launch] = []

    def __call__(self, launch: Launch) -> Sequence[mx.array]:
        self.launches.append(launch)
        return run(launch, self.seed)


def _as_array(value: mx.array | float | int) -> mx.array:
    """Numbers become scalars, as mlx makes them."""
    if isinstance(value, mx.array):
        return value
    return mx.array(value, mx.int32 if isinstance(value, int) else mx.float32)


def _check(launch: Launch) -> None:
    threads = prod(launch.threadgroup)
    assert 0 < threads <= MAX_THREADS, f"{threads} threads in a threadgroup"
    assert threads % SIMD == 0, f"{threads} threads are not whole simdgroups"
    for size, group in zip(launch.grid, launch.threadgroup, strict=True):
        assert size > 0, launch.grid
        assert size % group == 0, f"grid {launch.grid} in threadgroups {launch.threadgroup}"
    assert len(launch.inputs) == len(launch.kernel.inputs)
    assert len(launch.outputs) == len(launch.kernel.outputs)
    assert len(launch.inputs) + len(launch.outputs) <= 31, "Metal has 31 buffers"
    source = launch.kernel.source
    assert not re.search(r"threadgroup\s+\w+\s*\*", source + launch.kernel.header)
    for place in re.finditer(r"threadgroup\s+\w+\s+\w+\[", source):
        before = source[: place.start()]
        assert before.count("{") == before.count("}"), "threadgroup memory in an inner scope"
    for name in launch.kernel.inputs:
        # mlx adds shapes, strides and ndim wherever it finds these words.
        assert not re.search(rf"{name}_(shape|strides|ndim)", source)


def _program(launch: Launch, inputs: Sequence[mx.array]) -> str:
    kernel = launch.kernel
    lines = [f'#include "{HEADER.name}"', kernel.header]
    for name, value in launch.template:
        if isinstance(value, mx.Dtype):
            lines.append(f"using {name} = {TYPES[value]};")
        else:
            kind = "bool" if isinstance(value, bool) else "int"
            lines.append(f"constexpr {kind} {name} = {int(value)};")
    parameters, arguments = [], []
    for place, (name, x) in enumerate(zip(kernel.inputs, inputs, strict=True)):
        kind = TYPES[x.dtype]
        pointer = f"(const {kind}*)buffers[{place}]->data"
        if x.ndim == 0:
            parameters.append(f"const {kind}& {name}")
            arguments.append(f"*{pointer}")
        elif x.size < 8:
            parameters.append(f"Constant<{kind}> {name}")
            arguments.append(f"Constant<{kind}>{{{pointer}}}")
        else:
            parameters.append(f"const {kind}* {name}")
            arguments.append(pointer)
    for place, (name, (_, dtype)) in enumerate(zip(kernel.outputs, launch.outputs, strict=True)):
        parameters.append(f"{TYPES[dtype]}* {name}")
        arguments.append(f"({TYPES[dtype]}*)buffers[{len(inputs) + place}]->data")
    for name, (kind, value) in ATTRIBUTES.items():
        if name in kernel.source:
            parameters.append(f"{kind} {name}")
            arguments.append(
                value if kind == "uint" else f"uint3{value}" if "{" in value else value
            )
    lines += [
        "using namespace metal;",
        f"static void kernel_body({', '.join(parameters)}) {{",
        "#line 1",
        kernel.source,
        "}",
        "static shim::Guarded** buffers;",
        "static void one_thread(uint index) {",
        "  using shim::grid, shim::group, shim::at;",
        "  uint3 place = {index % group.x, index / group.x % group.y, index / group.x / group.y};",
        f"  kernel_body({', '.join(arguments)});",
        "}",
        'extern "C" const char* message() { return shim::message; }',
        'extern "C" int run(void** data, size_t* sizes, uint* grid, uint* group, uint64_t seed) {',
        f"  const int count = {len(inputs) + len(launch.outputs)};",
        "  shim::Guarded* guarded[count];",
        "  for (int i = 0; i < count; i++) guarded[i] = new shim::Guarded(data[i], sizes[i]);",
        "  buffers = guarded;",
        "  int failed = shim::launch(grid, group, seed, one_thread);",
        f"  for (int i = {len(inputs)}; i < count; i++) {{",
        "    memcpy(data[i], guarded[i]->data, sizes[i]);",
        "    if (!failed && !guarded[i]->padding_intact()) {",
        '      snprintf(shim::message, sizeof shim::message, "write past output %d", i);',
        "      failed = 1;",
        "    }",
        "  }",
        "  for (int i = 0; i < count; i++) delete guarded[i];",
        "  return failed;",
        "}",
    ]
    return "\n".join(lines)


@cache
def _compiled(program: str) -> ctypes.CDLL:
    """Compiled once per text, and kept for the next run of the tests."""
    folder = _header_folder()
    digest = hashlib.sha256(program.encode()).hexdigest()
    library = folder / f"{digest[:32]}.so"
    if not library.exists():
        _compile(program, ".cpp", library, "-shared", f"-I{folder}")
    return ctypes.CDLL(str(library))


@cache
def _header_folder() -> Path:
    """Where the header lies precompiled, and what was compiled with it."""
    text = HEADER.read_text()
    digest = hashlib.sha256("\0".join([text, *FLAGS]).encode()).hexdigest()
    whole = Path(tempfile.gettempdir()) / f"mxserve-metal-on-cpu-{getpass.getuser()}"
    folder = whole / digest[:16]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / f"{HEADER.name}.gch").exists():
        shutil.copyfile(HEADER, folder / HEADER.name)
        _compile(text, ".h", folder / f"{HEADER.name}.gch", "-xc++-header")
    return folder


def _compile(text: str, suffix: str, result: Path, *flags: str) -> None:
    """Another process may do the same: what is there is whole."""
    with tempfile.TemporaryDirectory(dir=result.parent) as scratch:
        source, built = Path(scratch) / f"source{suffix}", Path(scratch) / "built"
        source.write_text(text)
        command = ["g++", *FLAGS, *flags, str(source), "-o", str(built)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{text}"
        built.rename(result)


def _bytes(x: mx.array) -> np.ndarray:
    if x.dtype == mx.bfloat16:
        x = x.view(mx.uint16)
    flat = np.array(x).reshape(-1)
    return np.frombuffer(flat.tobytes(), np.uint8).copy()


def _from_bytes(data: np.ndarray, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    if dtype == mx.bfloat16:
        return mx.array(data.view(np.uint16)).view(mx.bfloat16).reshape(*shape)
    kinds = {mx.float32: np.float32, mx.uint32: np.uint32, mx.int32: np.int32}
    return mx.array(data.view(kinds[dtype])).reshape(*shape)
