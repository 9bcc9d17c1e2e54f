"""Tool arguments as the model writes them, as JSON values.

The model writes every argument as bare text; the tool's JSON schema tells whether `007` is a string
or a number. What does not fit its schema stays the text that it is: nothing is guessed or repaired.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn

from .schema_facts import target
from .schema_values import allows, kind_of

_KINDS = ("string", "integer", "number", "boolean", "null", "array", "object")
_SURROGATE = re.compile("[\ud800-\udfff]")


class ToolSchemas:
    """The parameter schemas of the tools that a request offers, by function name."""

    def __init__(self, tools: Sequence[Mapping[str, Any]] | None) -> None:
        self._schemas: dict[str, Mapping[str, Any]] = {}
        for tool in tools or ():
            function = tool.get("function", tool)
            name = function.get("name")
            if isinstance(name, str) and name:
                schema = function.get("parameters")
                self._schemas[name] = schema if isinstance(schema, Mapping) else {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the offered functions."""
        return tuple(self._schemas)

    def only_text(self, name: str, key: str) -> bool:
        """Whether the argument `key` of `name` can be nothing but a string."""
        return kinds_of(*self._schema(name, key)) == {"string"}

    def value_json(self, name: str, key: str, text: str) -> str:
        """The argument `key` of `name`, written as `text`, as JSON of the type its schema names."""
        try:
            return json_text(typed(text, *self._schema(name, key)))
        except RecursionError:  # nested as deep as it may be to be read, but not to be written
            return json_text(text)

    def _schema(self, name: str, key: str) -> tuple[object, Mapping[str, Any]]:
        root = self._schemas.get(name, {})
        properties = root.get("properties")
        return (properties.get(key) if isinstance(properties, Mapping) else None), root


def json_text(value: object) -> str:
    """`value` as JSON that can be encoded: a lone surrogate stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else _SURROGATE.sub(_escaped, text)


def typed(text: str, schema: object, root: Mapping[str, Any]) -> Any:
    """`text` as a value that `schema` allows, else the string it is; `root` holds the `$ref`s."""
    kinds = kinds_of(schema, root)
    if "string" not in kinds:
        return _fitting(text, kinds or set(_KINDS), text)
    others = kinds - {"string"}
    value = _fitting(text, others, text)
    # Where text and something else are both allowed, only the other's own spelling is taken for it,
    # and only where it is one of the others that are allowed.
    if isinstance(value, str) or _spelling(value) != text:
        return text
    return value if not isinstance(schema, Mapping) or allows(schema, value, root) else text


def kinds_of(schema: object, root: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema names, through unions, enums and local references."""
    kinds: set[str] = set()
    seen: set[int] = set()  # references may lead to the same schema often, or in a circle
    waiting = [schema]
    while waiting:
        schema = waiting.pop()
        if not isinstance(schema, Mapping) or id(schema) in seen:
            continue
        seen.add(id(schema))
        kinds.update(_named(schema))
        for union in ("anyOf", "oneOf", "allOf"):
            members = schema.get(union)
            waiting.extend(members if isinstance(members, Sequence) else ())
        reference = schema.get("$ref")
        if isinstance(reference, str):
            waiting.append(target(reference, root))
    return kinds


def _named(schema: Mapping[str, Any]) -> Iterator[str]:
    """The JSON types that a schema itself names."""
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, Sequence):
        yield from (kind for kind in declared if isinstance(kind, str))
    else:
        allowed = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if isinstance(allowed, Sequence):
            yield from map(kind_of, allowed)
        if "properties" in schema:
            yield "object"
        if "items" in schema:
            yield "array"


def _fitting(text: str, kinds: set[str], default: str) -> Any:
    """The JSON value that `text` spells, if it is of one of `kinds`."""
    bare = text.strip()
    if "boolean" in kinds and bare in ("True", "False"):
        return bare == "True"
    if "null" in kinds and bare == "None":
        return None
    try:
        value = json.loads(bare, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError):
        return default
    kind = kind_of(value)
    if kind in kinds or (kind == "integer" and "number" in kinds):
        return value
    if kind == "number" and "integer" in kinds and value.is_integer():
        return int(value)
    return default


def _spelling(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _finite(text: str) -> float:
    """The number that `text` spells. Raises ValueError where it is too large: it has no JSON."""
    value = float(text)
    return value if isfinite(value) else _not_json(text)


def _escaped(surrogate: re.Match[str]) -> str:
    return f"\\u{ord(surrogate.group()):04x}"


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
