"""Tool arguments as the model writes them, as JSON values.

The model writes every argument as bare text; the tool's JSON schema tells whether `007` is a string
or a number. What does not fit its schema stays the text that it is: nothing is guessed or repaired.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

_KINDS = ("string", "integer", "number", "boolean", "null", "array", "object")
_MAX_NESTING = 16


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

    def arguments_json(self, name: str, arguments: Mapping[str, str]) -> str:
        """The arguments of a call as a JSON object, each typed by its schema."""
        root = self._schemas.get(name, {})
        properties = root.get("properties")
        schemas = properties if isinstance(properties, Mapping) else {}
        values = {key: typed(text, schemas.get(key), root) for key, text in arguments.items()}
        encoded = json.dumps(values, ensure_ascii=False)
        if encoded.isascii():
            return encoded
        try:
            encoded.encode()
        except (
            UnicodeEncodeError
        ):  # a lone surrogate, written as an escape inside an array or object
            return json.dumps(values)
        return encoded


def typed(text: str, schema: object, root: Mapping[str, Any]) -> Any:
    """`text` as a value that `schema` allows, else the string it is; `root` holds the `$ref`s."""
    kinds = set(_kinds(schema, root, 0))
    if "string" not in kinds:
        return _fitting(text, kinds or set(_KINDS), text)
    others = kinds - {"string"}
    value = _fitting(text, others, text)
    # Where text and something else are both allowed, only the other's own spelling is taken for it.
    return value if _spelling(value) == text else text


def _kinds(schema: object, root: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The JSON types that a schema names, through unions, enums and local references."""
    if not isinstance(schema, Mapping) or depth > _MAX_NESTING:
        return
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, Sequence):
        yield from (kind for kind in declared if isinstance(kind, str))
    else:
        allowed = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
        if isinstance(allowed, Sequence):
            yield from map(_kind_of, allowed)
        if "properties" in schema:
            yield "object"
        if "items" in schema:
            yield "array"
    for union in ("anyOf", "oneOf", "allOf"):
        members = schema.get(union)
        for member in members if isinstance(members, Sequence) else ():
            yield from _kinds(member, root, depth + 1)
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _kinds(_resolve(reference, root), root, depth + 1)


def _resolve(reference: str, root: Mapping[str, Any]) -> object:
    target: object = root
    if not reference.startswith("#/"):
        return None
    for part in reference[2:].split("/"):
        target = target.get(part) if isinstance(target, Mapping) else None
    return target


def _fitting(text: str, kinds: set[str], default: str) -> Any:
    """The JSON value that `text` spells, if it is of one of `kinds`."""
    bare = text.strip()
    if "boolean" in kinds and bare in ("True", "False"):
        return bare == "True"
    if "null" in kinds and bare == "None":
        return None
    try:
        value = json.loads(bare, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return default
    kind = _kind_of(value)
    if kind in kinds or (kind == "integer" and "number" in kinds):
        return value
    if kind == "number" and "integer" in kinds and value.is_integer():
        return int(value)
    return default


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array"


def _spelling(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
