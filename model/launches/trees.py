"""Arrays in nested containers, in a fixed order."""

from __future__ import annotations

from typing import Any

import mlx.core as mx


def arrays_in(tree: Any) -> list[mx.array]:
    """The arrays in nested lists, tuples, dicts and dataclasses, in order."""
    if isinstance(tree, mx.array):
        return [tree]
    if isinstance(tree, dict):
        return [array for value in tree.values() for array in arrays_in(value)]
    if isinstance(tree, list | tuple):
        return [array for value in tree for array in arrays_in(value)]
    fields = getattr(type(tree), "__dataclass_fields__", ())
    return [array for name in fields for array in arrays_in(getattr(tree, name))]


def with_arrays(tree: Any, arrays: list[mx.array]) -> Any:
    """`tree` of lists, tuples and dicts with its arrays replaced, first by first; `arrays` is used
    up."""
    if isinstance(tree, mx.array):
        return arrays.pop(0)
    if isinstance(tree, dict):
        return {key: with_arrays(value, arrays) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(with_arrays(value, arrays) for value in tree)
    return tree
