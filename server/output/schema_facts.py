"""What is plain about a JSON Schema without an instance: where references lead, what two schemas
cannot both match. Knows the keywords; enforces nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any] | bool

_REFERENCES = 16


def resolved(schema: Any, root: Any) -> Any:
    """`schema`, or what its `$ref` points to within `root`, however often. None where it points to
    nothing, outside, or round in circles."""
    for _ in range(_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            return schema
        schema = _target(reference, root)
    return None


def _target(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return None
    target: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        target = target.get(name) if isinstance(target, Mapping) else None
    return target


def exclude(a: Any, b: Any, root: Any) -> bool:
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


def types(schema: Mapping[str, Any]) -> set[str]:
    """The types that a schema names, where a number may be an integer."""
    declared = schema.get("type")
    kinds: set[str] = {declared} if isinstance(declared, str) else set(declared or ())
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
    return {json.dumps(v, sort_keys=True) for v in values} if isinstance(values, list) else None


def _required(schema: Mapping[str, Any]) -> list[str]:
    required = schema.get("required")
    return [r for r in required if isinstance(r, str)] if isinstance(required, list) else []


def _property(schema: Mapping[str, Any], name: str) -> Any:
    properties = schema.get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def _forbids(schema: Mapping[str, Any], name: str) -> bool:
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    return closed and _property(schema, name) is None
