import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import mlx.core as mx
import pytest

from model import device


def test_current_device_has_memory_and_a_compute_dtype() -> None:
    info = device.current()
    assert info.kind in ("cpu", "metal", "cuda")
    assert info.compute_dtype == (mx.float32 if info.kind == "cpu" else mx.bfloat16)
    assert 0 < info.memory_available <= info.memory_total
    assert info.name
    assert info.blas


def test_device_info_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        device.current().kind = "metal"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenBLAS is loaded on Linux only")
def test_openblas_is_mapped_before_mlx_when_it_is_said_to_run() -> None:
    program = (
        "import sys; from model import device\n"
        "assert 'mlx.core' not in sys.modules; import mlx.core\n"
        "mapped = 'libopenblas' in open('/proc/self/maps').read()\n"
        "print(device.current().blas.startswith('OpenBLAS'), mapped)"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert output[0] == output[1]


def test_a_fast_matrix_product_follows_from_openblas() -> None:
    """The reference BLAS makes 2 GFLOP/s; half a second for this product is 4."""
    program = (
        "import timeit; from model import device; import mlx.core as mx\n"
        "print(device.current().blas)\n"
        "a = mx.ones((1024, 1024)); mx.eval(a @ a)\n"
        "print(min(timeit.repeat(lambda: mx.eval((a + 1) @ a), number=1, repeat=5)))"
    )
    blas, seconds = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if not blas.startswith(("OpenBLAS", "Accelerate")):
        pytest.skip("no fast BLAS on this machine")
    assert float(seconds) < 0.5


def test_meminfo_is_read_in_bytes(tmp_path: Path) -> None:
    table = tmp_path / "meminfo"
    table.write_text("MemTotal:       2048 kB\nMemAvailable:   1024 kB\nHugePages_Total:  7\n")
    assert device._meminfo(table) == {"MemTotal": 2048 * 1024, "MemAvailable": 1024 * 1024}
    assert device._meminfo(tmp_path / "none") == {}


@pytest.mark.parametrize("version", [1, 2])
def test_container_limit_counts_without_page_cache(tmp_path: Path, version: int) -> None:
    _control_group(tmp_path, version, limit="5000")
    assert device._container_memory(tmp_path) == (5000, 2000)


@pytest.mark.parametrize(("version", "limit"), [(1, "9223372036854771712"), (2, "max")])
def test_no_container_limit(tmp_path: Path, version: int, limit: str) -> None:
    _control_group(tmp_path, version, limit=limit)
    assert device._container_memory(tmp_path)[0] is None
    assert device._container_memory(tmp_path / "elsewhere") == (None, 0)


def _control_group(root: Path, version: int, limit: str) -> None:
    if version == 2:
        names = ("memory.max", "memory.current", "memory.stat")
        stat = "anon 9\ninactive_file 1000\n"
    else:
        (root / "memory").mkdir()
        names = (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        )
        stat = "inactive_file 7\ntotal_inactive_file 1000\n"
    for name, text in zip(names, (limit, "3000", stat), strict=True):
        (root / name).write_text(text)
