"""Spans and snapshots as named tensors of plain bytes, and back, bit for bit.

Knows arrays and the safetensors names of their types; not files, checksums or threads. Everything
here is called from the thread that owns the arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from model.state import KVSpan, RecurrentSnapshot

PIECE = 4 << 20  # bytes copied at a time
_TYPES = {
    mx.float32: ("F32", np.float32),
    mx.bfloat16: ("BF16", np.uint16),
    mx.float16: ("F16", np.float16),
    mx.uint8: ("U8", np.uint8),
}
_BY_NAME = {name: (dtype, plain) for dtype, (name, plain) in _TYPES.items()}


class TensorSpec(NamedTuple):
    """A tensor as a safetensors header describes it; `dtype` in the format's spelling."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


class TensorBytes(NamedTuple):
    """A tensor as a safetensors file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def tensor_specs(state: KVSpan | RecurrentSnapshot) -> list[TensorSpec]:
    """The tensors of a state in the order of `tensor_pieces`. ValueError for a type that no file
    can hold."""
    specs: list[TensorSpec] = []
    for name, array in _named(state):
        if array.dtype not in _TYPES:
            raise ValueError(f"{name}: {array.dtype} is not a type of states")
        specs.append(TensorSpec(name, _TYPES[array.dtype][0], tuple(array.shape), array.nbytes))
    return specs


def tensor_pieces(state: KVSpan | RecurrentSnapshot) -> Iterator[bytes]:
    """The bytes of all tensors one after another, row by row, in copies of at most `PIECE` bytes,
    each made when it is asked for."""
    for _, array in _named(state):
        if not array.size:
            continue
        whole = memoryview(mx.contiguous(array.reshape(-1)).view(mx.uint8))  # type: ignore[arg-type]
        for start in range(0, whole.nbytes, PIECE):
            yield bytes(whole[start : start + PIECE])


def read_span(tensors: Mapping[str, TensorBytes], length: int) -> KVSpan:
    """The span of `length` tokens that `tensors` were made from. ValueError when they cannot be."""
    keys, values = _layers(tensors, "keys"), _layers(tensors, "values")
    shapes = [array.shape for array in (*keys, *values)]
    if not keys or len(keys) != len(values) or any(len(s) != 4 or s[2] != length for s in shapes):
        raise ValueError(f"not keys and values of {length} tokens: {shapes}")
    mx.eval(keys, values)
    return KVSpan(tuple(keys), tuple(values), length)


def read_snapshot(tensors: Mapping[str, TensorBytes], position: int) -> RecurrentSnapshot:
    """The snapshot after `position` tokens that `tensors` were made from. ValueError when they
    cannot be."""
    conv_tails, recurrent = _layers(tensors, "conv_tails"), _layers(tensors, "recurrent")
    if not recurrent or len(recurrent) != len(conv_tails):
        raise ValueError(f"{len(conv_tails)} convolution tails, {len(recurrent)} recurrent states")
    mx.eval(conv_tails, recurrent)
    return RecurrentSnapshot(tuple(conv_tails), tuple(recurrent), position)


def _named(state: KVSpan | RecurrentSnapshot) -> Iterator[tuple[str, mx.array]]:
    if isinstance(state, KVSpan):
        groups = {"keys": state.keys, "values": state.values}
    else:
        groups = {"conv_tails": state.conv_tails, "recurrent": state.recurrent}
    for group, arrays in groups.items():
        for layer, array in enumerate(arrays):
            yield f"{group}.{layer}", array


def _layers(tensors: Mapping[str, TensorBytes], group: str) -> list[mx.array]:
    arrays: list[mx.array] = []
    while (stored := tensors.get(f"{group}.{len(arrays)}")) is not None:
        arrays.append(_array(stored))
    return arrays


def _array(stored: TensorBytes) -> mx.array:
    if stored.dtype not in _BY_NAME:
        raise ValueError(f"{stored.dtype} is not a type of states")
    dtype, plain = _BY_NAME[stored.dtype]
    if prod(stored.shape) * np.dtype(plain).itemsize != stored.data.nbytes:
        raise ValueError(f"{stored.data.nbytes} bytes for {stored.dtype} {stored.shape}")
    if not stored.data.nbytes:
        return mx.zeros(stored.shape, dtype)
    array = mx.array(np.frombuffer(stored.data, plain).reshape(stored.shape))
    return array if array.dtype == dtype else array.view(dtype)
