"""Activation functions that more than one layer uses."""

from __future__ import annotations

import mlx.core as mx


def silu(x: mx.array) -> mx.array:
    """x · sigmoid(x), elementwise."""
    return x * mx.sigmoid(x)
