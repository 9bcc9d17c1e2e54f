"""The CPU that stands in for a GPU: small kernels with known results, and wrong ones."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from model.kernels.metal import Launch, MetalKernel
from tests.model.kernels.metal_on_cpu import MetalError, needs_compiler, run

pytestmark = needs_compiler


def launch(
    source: str,
    inputs: dict[str, Any],
    shape: tuple[int, ...],
    *,
    dtype: mx.Dtype = mx.float32,
    grid: tuple[int, int, int] | None = None,
    threads: int = 64,
    header: str = "",
    **template: Any,
) -> Launch:
    kernel = MetalKernel("small", tuple(inputs), ("out",), source, header)
    return Launch(
        kernel,
        tuple(inputs.values()),
        tuple(template.items()),
        grid or (threads, 1, 1),
        (threads, 1, 1),
        ((shape, dtype),),
    )


def numbers(*shape: int, seed: int = 0) -> mx.array:
    return mx.array(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


# The sum of each row: simdgroups add up their part, then the first adds up the parts.
ROW_SUM = """
    uint row = threadgroup_position_in_grid.y;
    threadgroup float parts[32];
    float sum = 0;
    for (uint i = thread_index_in_threadgroup; i < N; i += threads_per_threadgroup.x)
        sum += x[row * N + i];
    sum = simd_sum(sum);
    if (thread_index_in_simdgroup == 0) parts[simdgroup_index_in_threadgroup] = sum;
    BARRIER
    if (simdgroup_index_in_threadgroup == 0) {
        bool there = thread_index_in_simdgroup < simdgroups_per_threadgroup;
        sum = simd_sum(there ? parts[thread_index_in_simdgroup] : 0.0f);
        if (thread_index_in_simdgroup == 0) out[row] = sum;
    }
"""
BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"


@pytest.mark.parametrize("threads", [32, 256, 1024])
@pytest.mark.parametrize("width", [1, 31, 1000])
def test_a_reduction_over_threadgroups(threads: int, width: int) -> None:
    x = numbers(3, width)
    source = ROW_SUM.replace("BARRIER", BARRIER)
    (got,) = run(launch(source, {"x": x}, (3,), grid=(threads, 3, 1), threads=threads, N=width))
    assert np.allclose(np.array(got), np.array(x.sum(axis=1)), atol=1e-4)


def test_a_missing_barrier_shows() -> None:
    x = numbers(1, 1000)
    wrong = launch(ROW_SUM.replace("BARRIER", ""), {"x": x}, (1,), threads=256, N=1000)
    results = {float(run(wrong, seed)[0][0]) for seed in range(5)}
    assert len(results) > 1 or np.isnan(results.pop())


def test_a_race_inside_a_simdgroup_shows() -> None:
    source = """
        threadgroup float shared[32];
        uint lane = thread_index_in_simdgroup;
        shared[lane] = x[lane];
        FENCE
        out[lane] = shared[31 - lane];
    """
    x = numbers(32)
    fence = "simdgroup_barrier(mem_flags::mem_threadgroup);"
    right = launch(source.replace("FENCE", fence), {"x": x}, (32,), threads=32)
    wrong = launch(source.replace("FENCE", ""), {"x": x}, (32,), threads=32)
    assert mx.array_equal(run(right)[0], x[::-1])
    assert not mx.array_equal(run(wrong)[0], x[::-1])


def test_positions_of_all_threads() -> None:
    source = """
        uint3 p = thread_position_in_grid;
        uint3 local = thread_position_in_threadgroup;
        uint3 at = threadgroup_position_in_grid;
        bool same = p.x == at.x * threads_per_threadgroup.x + local.x
            && p.y == at.y * threads_per_threadgroup.y + local.y
            && threads_per_grid.x == threadgroups_per_grid.x * threads_per_threadgroup.x;
        out[p.y * threads_per_grid.x + p.x] = same ? p.x + 100 * p.y : -1;
    """
    kernel = MetalKernel("small", (), ("out",), source)
    given = Launch(kernel, (), (), (32, 6, 1), (16, 2, 1), (((6, 32), mx.int32),))
    want = mx.arange(32)[None, :] + 100 * mx.arange(6)[:, None]
    assert mx.array_equal(run(given)[0], want)


def test_simdgroup_operations() -> None:
    source = """
        uint lane = thread_index_in_simdgroup;
        float v = x[lane];
        out[lane] = simd_max(v);
        out[32 + lane] = simd_min(v);
        out[64 + lane] = simd_shuffle_xor(v, 5);
        out[96 + lane] = simd_shuffle(v, (lane * 7) % 32);
        out[128 + lane] = simd_broadcast(v, 3);
        float below = simd_shuffle_down(v, 2);
        out[160 + lane] = lane < 30 ? below : 0;
        uint u = simd_max(lane);
        out[192 + lane] = u;
    """
    x = np.array(numbers(32))
    got = np.array(run(launch(source, {"x": mx.array(x)}, (7, 32), threads=32))[0])
    lane = np.arange(32)
    assert (got[0] == x.max()).all()
    assert (got[1] == x.min()).all()
    assert (got[2] == x[lane ^ 5]).all()
    assert (got[3] == x[lane * 7 % 32]).all()
    assert (got[4] == x[3]).all()
    assert (got[5, :30] == x[2:]).all()
    assert (got[6] == 31).all()


def test_bfloat16_rounds_to_nearest_even_as_mlx_does() -> None:
    x = mx.concatenate([numbers(200) * 10.0**e for e in range(-30, 30, 7)])
    x = mx.concatenate([x, mx.array([np.inf, -np.inf, 0.0, 1.00390625, 1.01171875])])
    source = "out[thread_position_in_grid.x] = static_cast<T>(x[thread_position_in_grid.x]);"
    size = x.size // 32 * 32
    (got,) = run(
        launch(
            source,
            {"x": x},
            (size,),
            dtype=mx.bfloat16,
            threads=32,
            grid=(size, 1, 1),
            T=mx.bfloat16,
        )
    )
    assert mx.array_equal(got, x[:size].astype(mx.bfloat16))


def test_scalars_and_small_arrays_come_as_mlx_passes_them() -> None:
    source = "uint i = thread_position_in_grid.x; out[i] = factor * small[i % 3] + offset;"
    inputs = {"factor": 2.5, "small": mx.array([1.0, 2.0, 3.0]), "offset": 4}
    (got,) = run(launch(source, inputs, (32,), threads=32))
    assert got.tolist() == [2.5 * (1 + i % 3) + 4 for i in range(32)]
    # Fewer than eight elements lie in constant memory: a device pointer to them does not compile.
    pointer = "const device float* p = small; out[thread_position_in_grid.x] = p[0];"
    with pytest.raises(AssertionError, match="error"):
        run(launch(pointer, {"small": mx.array([1.0, 2.0])}, (32,), threads=32))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("if (thread_index_in_threadgroup < 40) BARRIER", "not all threads reach"),
        ("if (thread_index_in_threadgroup < 32) { BARRIER }\nelse { BARRIER }", "different barr"),
        ("if (thread_index_in_simdgroup < 16) out[0] = simd_sum(1.0f);", "not all threads reach"),
        (
            "if (thread_index_in_simdgroup < 16) simd_sum(1.0f);\nelse simd_max(1.0f);",
            "different operations",
        ),
        ("out[0] = x[1000 + thread_index_in_threadgroup];", "outside a buffer"),
        ("out[1024 + thread_index_in_threadgroup] = 1;", "outside a buffer"),
        (
            "threadgroup float big[8200]; big[int(x[0])] = 1; out[0] = big[int(x[1])];",
            "32800 bytes",
        ),
        ("out[9] = 1;", "write past output"),
    ],
)
def test_what_a_gpu_would_not_forgive(source: str, message: str) -> None:
    source = source.replace("BARRIER", BARRIER)
    with pytest.raises(MetalError, match=message):
        run(launch(source, {"x": numbers(64)}, (9,)))


def test_a_library_is_usable_after_an_error() -> None:
    source = "out[thread_index_in_threadgroup] = x[thread_index_in_threadgroup + shift];"
    right = {"x": numbers(64), "shift": 0}
    with pytest.raises(MetalError):
        run(launch(source, {**right, "shift": 100_000}, (64,)))
    assert mx.array_equal(run(launch(source, right, (64,)))[0], right["x"])


def test_launches_that_mlx_or_a_gpu_would_refuse() -> None:
    for given in (
        launch("out[0] = 1;", {}, (1,), threads=48),
        launch("out[0] = 1;", {}, (1,), threads=2048),
        launch("out[0] = 1;", {}, (1,), grid=(100, 1, 1)),
        launch("out[0] = x_shape[0];", {"x": numbers(9)}, (1,)),
        launch("for (;;) { threadgroup float inner[4]; out[0] = 1; }", {}, (1,)),
    ):
        with pytest.raises(AssertionError):
            run(given)


def test_arithmetic_in_bfloat16_does_not_compile() -> None:
    x = numbers(64).astype(mx.bfloat16)
    source = "out[thread_index_in_threadgroup] = static_cast<float>(x[0] * x[1]);"
    with pytest.raises(AssertionError, match="deleted"):
        run(launch(source, {"x": x}, (64,)))


def test_what_is_not_written_is_not_a_number() -> None:
    source = "threadgroup float shared[32]; out[thread_index_in_threadgroup] = shared[3];"
    (got,) = run(launch(source, {}, (65,)))
    assert mx.isnan(got).all()
