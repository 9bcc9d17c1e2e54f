"""How arrays lie in memory: strides through the views that cost nothing, and where a copy is due.

The rules are those of MLX's own views (mlx/backend/common: the same on every device). Strides count
elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

Shape = tuple[int, ...]
VIEWS = frozenset(
    ("Broadcast", "BroadcastAxes", "ExpandDims", "Squeeze", "Transpose", "Slice", "Split")
)
RESHAPES = frozenset(("Reshape", "Flatten", "Unflatten"))


@dataclass(frozen=True, slots=True)
class Layout:
    """An array in its buffer. size: elements of the buffer from its first to its last; dense: it
    leaves none of them out; buffer: the array that the memory was made for."""

    shape: Shape
    strides: Shape
    size: int
    dense: bool
    buffer: str

    @property
    def row_contiguous(self) -> bool:
        """Whether it lies as a new array of its shape would."""
        wanted = strides_of(self.shape)
        return all(
            n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True)
        )

    @property
    def column_contiguous(self) -> bool:
        """Whether it lies as a new array of its shape, turned round, would."""
        wanted = strides_of(self.shape[::-1])[::-1]
        return all(
            n == 1 or a == b for n, a, b in zip(self.shape, self.strides, wanted, strict=True)
        )


def strides_of(shape: Shape) -> Shape:
    """Strides of a new array."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def new(shape: Shape, buffer: str) -> Layout:
    """A new array, in memory of its own."""
    return Layout(shape, strides_of(shape), prod(shape), True, buffer)


def view(name: str, source: Layout, shape: Shape, arguments: Sequence[Any]) -> Layout:
    """What one of VIEWS makes of `source`."""
    strides = source.strides
    if name in ("Broadcast", "BroadcastAxes"):
        padded = (0,) * (len(shape) - len(strides)) + strides
        sizes = (1,) * (len(shape) - len(strides)) + source.shape
        stretched = tuple(0 if n == 1 else s for n, s in zip(sizes, padded, strict=True))
        return replace(source, shape=shape, strides=stretched)
    if name == "ExpandDims":
        widened = list(strides)
        for axis in arguments[0]:
            widened.insert(axis, 1)
        return replace(source, shape=shape, strides=tuple(widened))
    if name == "Squeeze":
        kept = tuple(s for axis, s in enumerate(strides) if axis not in arguments[0])
        return replace(source, shape=shape, strides=kept)
    if name == "Transpose":
        return replace(source, shape=shape, strides=tuple(strides[axis] for axis in arguments[0]))
    if name == "Slice":
        steps = tuple(s * step for s, step in zip(strides, arguments[2], strict=True))
        return _cut(replace(source, shape=shape, strides=steps))
    return _split(source, shape)


def _cut(cut: Layout) -> Layout:
    """A slice: it ends where its last element lies."""
    size = 1 + sum(abs(s) * (n - 1) for s, n in zip(cut.strides, cut.shape, strict=True))
    filled = prod(n for s, n in zip(cut.strides, cut.shape, strict=True) if s)
    return replace(cut, size=size, dense=filled == size)


def _split(source: Layout, shape: Shape) -> Layout:
    size = prod(n for s, n in zip(source.strides, shape, strict=True) if s > 0)
    part = replace(source, shape=shape, size=size)
    if size == 1:
        return replace(part, dense=True)
    if size == source.size:
        return part
    return replace(part, dense=source.dense and (part.row_contiguous or part.column_contiguous))


def reshaped(source: Layout, shape: Shape) -> Layout | None:
    """`source` in another shape, in the same memory; None where the elements must move."""
    if 0 in shape or source.row_contiguous:
        return replace(source, shape=shape, strides=strides_of(shape))
    if not source.shape:
        return replace(source, shape=shape, strides=(0,) * len(shape))
    sizes, steps = _collapsed(source)
    strides: list[int] = []
    axis = 0
    for n in shape:
        if axis < len(sizes) and sizes[axis] % n == 0:
            sizes[axis] //= n
            strides.append(sizes[axis] * steps[axis])
            axis += sizes[axis] == 1
        elif n == 1:
            strides.append(strides[-1] if strides else 1)
        else:
            return None
    return replace(source, shape=shape, strides=tuple(strides))


def _collapsed(source: Layout) -> tuple[list[int], list[int]]:
    """Sizes and strides with neighbouring axes joined where they lie one after the other, without
    axes of one element."""
    sizes: list[int] = []
    steps: list[int] = []
    for n, stride in zip(source.shape, source.strides, strict=True):
        if n == 1:
            continue
        if sizes and stride * n == steps[-1]:
            sizes[-1] *= n
            steps[-1] = stride
        else:
            sizes.append(n)
            steps.append(stride)
    return sizes, steps
