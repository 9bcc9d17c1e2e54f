"""What is plain about a JSON Schema without an instance: where references lead, what two schemas
cannot both match. Knows the keywords; enforces nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

Schema = Mapping[str, Any] | bool

_REFERENCES = 16


def resolved(schema: Any, root: Any) -> Any:
    """`schema`, or what its `$ref` points to within `root`, however often. None where it points to
    nothing, outside, or round in circles."""
    for _ in range(_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            return schema
        schema = target(reference, root)
    return None


def target(reference: str, root: Any) -> Any:
    """What the JSON pointer `reference` (`#`, `#/...`) leads to within `root`; None for nothing,
    and for every other kind of reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = root
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list):
            found = found[int(name)] if name.isdecimal() and int(name) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, Mapping) else None
    return found


def exclusive(schemas: list[Any], root: Any, *, pairwise: bool = True) -> bool:
    """Whether it is plain that no two of `schemas` match the same. Without `pairwise` only by a
    property that tells them all apart, which takes time in proportion to their number."""
    if _told_apart([resolved(schema, root) for schema in schemas], root):
        return True
    rest = enumerate(schemas, 1)
    return pairwise and all(_exclude(a, b, root) for i, a in rest for b in schemas[i:])


def _told_apart(schemas: list[Any], root: Any) -> bool:
    """Whether all demand a property whose constants differ from one to the other."""
    if not all(isinstance(schema, Mapping) and types(schema) == {"object"} for schema in schemas):
        return False
    for name in set.intersection(*(set(_required(schema)) for schema in schemas)):
        found = [_constants(resolved(_property(schema, name), root)) for schema in schemas]
        told = [one for one in found if one is not None]
        if len(told) == len(schemas) and len(set().union(*told)) == sum(map(len, told)):
            return True
    return False


def _exclude(a: Any, b: Any, root: Any) -> bool:
    """Whether it is plain that nothing matches both schemas: their types or constants differ, or,
    of objects, those of a property that both demand, or one demands what the other forbids."""
    a, b = resolved(a, root), resolved(b, root)
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return False
    kinds = types(a), types(b)
    if kinds[0] and kinds[1] and not kinds[0] & kinds[1]:
        return True
    if _differ(a, b, root):
        return True
    if kinds != ({"object"}, {"object"}):
        return False
    if any(_forbids(x, name) for x, y in ((a, b), (b, a)) for name in _required(y)):
        return True
    shared = set(_required(a)) & set(_required(b))
    return any(_differ(_property(a, name), _property(b, name), root) for name in shared)


def canonical(value: Any) -> str:
    """One text for what is one value in JSON: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(v) for key, v in value.items()} if isinstance(value, Mapping) else value


def types(schema: Mapping[str, Any]) -> set[str]:
    """The types that a schema names, where a number may be an integer."""
    declared = schema.get("type")
    named = declared if isinstance(declared, list) else [declared]
    kinds = {kind for kind in named if isinstance(kind, str)}
    if "number" in kinds:
        kinds.add("integer")
    return kinds


def _differ(a: Any, b: Any, root: Any) -> bool:
    left, right = _constants(resolved(a, root)), _constants(resolved(b, root))
    return left is not None and right is not None and not left & right


def _constants(schema: Any) -> set[str] | None:
    if not isinstance(schema, Mapping):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return {canonical(v) for v in values} if isinstance(values, list) else None


def _required(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required")
    return [r for r in required if isinstance(r, str)] if isinstance(required, list) else []


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def _forbids(schema: Mapping[str, Any], name: str) -> bool:
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    return closed and _property(schema, name) is None
