"""A part of a JSON Schema as one of its own, with what its references lead to.

Knows JSON pointers; nothing of what a schema demands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .schema_facts import Schema

_DEFINITIONS = ("$defs", "definitions")
_ROOT = "__root__"


def standing_alone(part: Mapping[str, Any], root: Schema) -> Mapping[str, Any]:
    """`part`, a schema within `root`, such that its references lead where they led."""
    if not isinstance(root, Mapping) or part is root:
        return part
    references = list(_references(part))
    if not references:
        return part
    definitions = {key: root[key] for key in _DEFINITIONS if key in root}
    references += _references(definitions)
    if all(one.startswith(tuple(f"#/{key}/" for key in definitions)) for one in references):
        return {**part, **definitions}
    return {**_moved(part), "$defs": {_ROOT: _moved(root)}}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("$ref")
        if isinstance(reference, str):
            yield reference
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _moved(value: Any) -> Any:
    """`value` with its references to the root leading to its new place."""
    if isinstance(value, list):
        return [_moved(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    moved = {key: _moved(inner) for key, inner in value.items()}
    reference = value.get("$ref")
    if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
        moved["$ref"] = f"#/$defs/{_ROOT}{reference[1:]}"
    return moved
