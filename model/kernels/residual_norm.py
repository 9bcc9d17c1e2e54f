"""Residual addition and the RMS norm after it, in one kernel.

Shapes: B sequences, T tokens, H hidden.
"""

from __future__ import annotations

import mlx.core as mx


def add_rms_norm(
    x: mx.array, delta: mx.array, weight: mx.array, eps: float
) -> tuple[mx.array, mx.array]:
    """x, delta [B, T, H] of one dtype, weight [H] -> (x + delta, its RMS norm times weight), both
    [B, T, H]. Plain operations.
    """
    total = x + delta
    return total, mx.fast.rms_norm(total, weight, eps)
