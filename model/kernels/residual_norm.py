"""Residual addition and the RMS norm after it, in one kernel.

Shapes: B sequences, T tokens, H hidden.
"""

from __future__ import annotations

from math import prod

import mlx.core as mx

from model.kernels.metal import (
    MAX_THREADS,
    SIMD,
    Launch,
    MetalKernel,
    Runner,
    UnsupportedError,
    run,
)

MAX_HIDDEN = 16 * MAX_THREADS  # values a thread keeps in registers: 16


def add_rms_norm(
    x: mx.array, delta: mx.array, weight: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    """x, delta [B, T, H] of one dtype, weight [H] -> (x + delta, its RMS norm times weight), both
    [B, T, H]. Plain operations.
    """
    total = x + delta
    return total, mx.fast.rms_norm(total, weight, eps)


# One threadgroup per row. Template: T activation type, H, THREADS per threadgroup.
KERNEL = MetalKernel(
    name="add_rms_norm",
    inputs=("x", "delta", "weight", "eps"),
    outputs=("total", "normed"),
    source="""
        constexpr int PER_THREAD = (H + THREADS - 1) / THREADS;
        uint first = threadgroup_position_in_grid.x * H;
        uint index = thread_index_in_threadgroup;
        threadgroup float parts[32];

        float values[PER_THREAD];
        float squares = 0;
        #pragma unroll
        for (int n = 0; n < PER_THREAD; n++) {
            uint i = n * THREADS + index;
            values[n] = 0;
            if (i < H) {
                // The norm is that of the sum as the next layer reads it: rounded.
                T sum = static_cast<T>(float(x[first + i]) + float(delta[first + i]));
                total[first + i] = sum;
                values[n] = float(sum);
            }
            squares += values[n] * values[n];
        }
        squares = simd_sum(squares);
        if (thread_index_in_simdgroup == 0) {
            parts[simdgroup_index_in_threadgroup] = squares;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);
        bool there = thread_index_in_simdgroup < THREADS / 32;
        squares = simd_sum(there ? parts[thread_index_in_simdgroup] : 0.0f);
        float scale = metal::precise::rsqrt(squares / H + eps);
        #pragma unroll
        for (int n = 0; n < PER_THREAD; n++) {
            uint i = n * THREADS + index;
            if (i < H) {
                normed[first + i] = static_cast<T>(values[n] * scale * float(weight[i]));
            }
        }
    """,
)


def metal_add_rms_norm(
    x: mx.array, delta: mx.array, weight: mx.array, eps: float, *, runner: Runner = run
) -> tuple[mx.array, mx.array]:
    """`add_rms_norm` in one launch of B·T threadgroups. Raises UnsupportedError."""
    hidden = x.shape[-1]
    if delta.dtype != x.dtype or delta.shape != x.shape or not 0 < hidden <= MAX_HIDDEN:
        raise UnsupportedError(
            f"{x.dtype} {x.shape} plus {delta.dtype} {delta.shape}: one type and shape, "
            f"at most {MAX_HIDDEN} wide"
        )
    rows = prod(x.shape[:-1])
    # Four values a thread: enough loads in flight, and few enough parts to add up.
    threads = min(-(-hidden // (4 * SIMD)) * SIMD, MAX_THREADS)
    total, normed = runner(
        Launch(
            KERNEL,
            inputs=(x, delta, weight, eps),
            template=(("T", x.dtype), ("H", hidden), ("THREADS", threads)),
            grid=(rows * threads, 1, 1),
            threadgroup=(threads, 1, 1),
            outputs=((x.shape, x.dtype), (x.shape, x.dtype)),
        )
    )
    return total, normed
