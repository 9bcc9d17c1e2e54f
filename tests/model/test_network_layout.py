"""How what a network holds lies in memory: kernels want rows, and would copy anything else in every
step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from model.checkpoint import load_weights
from model.config import read_config
from model.loading import DEMO_FOLDER
from model.network import Network


def arrays(path: str, value: Any) -> Iterator[tuple[str, mx.array]]:
    if isinstance(value, mx.array):
        yield path, value
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from arrays(f"{path}.{index}", each)
    elif type(value).__module__.startswith("model."):
        for name in vars(value) if hasattr(value, "__dict__") else value.__slots__:
            yield from arrays(f"{path}.{name}", getattr(value, name))


def lies_in_rows(x: mx.array) -> bool:
    x = x.view(mx.uint16) if x.dtype == mx.bfloat16 else x
    return np.array(x, copy=False).flags.c_contiguous


def test_every_array_of_a_layer_lies_in_rows() -> None:
    config = read_config(DEMO_FOLDER)
    weights = load_weights(DEMO_FOLDER, config, compute_dtype=mx.bfloat16, dequantize=False)
    network = Network(config, weights, mx.bfloat16, on_gpu=False)
    found = dict(arrays("layers", network.layers))
    assert {name.rsplit(".", 1)[1] for name in found} >= {"conv_taps", "decay_rate", "input_norm"}
    # A product reads its matrix from either side.
    kept = {name: x for name, x in found.items() if not name.endswith(".transposed")}
    assert [name for name, x in kept.items() if not lies_in_rows(x)] == []


def test_a_transposed_array_would_be_found() -> None:
    assert not lies_in_rows(mx.zeros((3, 4), mx.bfloat16).T)
    assert lies_in_rows(mx.zeros((3, 4), mx.bfloat16))
