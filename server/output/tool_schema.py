"""A tool's schema as the grammars of its parameters, in the text of Lark.

Knows which keywords of a tool's own schema can be held to parameter by parameter; not how a call
is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .arguments import kinds_of
from .grammar_error import GrammarError
from .json_schema import idle, without
from .lark import quoted
from .schema_facts import Schema, target
from .value_grammar import END, value_grammar

log = logging.getLogger(__name__)

_ANY = f"start: v\nv[suffix={quoted(END)}]: /(?s:.*)/"
_LOOSENINGS = 16
_NESTING = 16
_PARTS = 256
# What a tool's own schema may demand, and its parameters one by one are not held to.
_DEMANDS = (
    "anyOf", "oneOf", "not", "if", "enum", "const", "minProperties", "maxProperties",
    "patternProperties", "propertyNames", "dependencies", "dependentRequired", "dependentSchemas",
    "$dynamicRef", "$recursiveRef", "disallow", "extends",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ToolSchema:
    """values: the grammar of each parameter that is declared, END included. others: that of any
    other key but the `banned`, None where there may be none."""

    values: Mapping[str, str]
    required: frozenset[str]
    others: str | None
    banned: frozenset[str]


def tool_schema(
    function: Mapping[str, Any], param: str, compiles: Callable[[str, str], object]
) -> ToolSchema:
    """The schema of `function`, in OpenAI's shape. What it demands and cannot be enforced is left
    out, with a warning, unless the function is `strict`: then it is a GrammarError, as is what
    `compiles`, given a grammar and `param`, raises of one that cannot be compiled."""
    return _Reader(function, param, compiles).read()


class _Reader:
    def __init__(
        self, function: Mapping[str, Any], param: str, compiles: Callable[[str, str], object]
    ) -> None:
        self._compiles = compiles
        self._left = _PARTS
        self._root: Schema = function.get("parameters") or {"properties": {}}
        self._strict = bool(function.get("strict"))
        self._name = function["name"]
        self._param = param

    def read(self) -> ToolSchema:
        declared: dict[str, list[Any]] = {}
        required: set[str] = set()
        extra: list[Any] = []
        parts = list(self._parts(self._root, 0))
        for part in parts:
            properties, names = part.get("properties"), part.get("required")
            if isinstance(properties, Mapping):
                for key, schema in properties.items():
                    declared.setdefault(key, []).append(schema)
            if isinstance(names, list):
                required |= {name for name in names if isinstance(name, str)}
            if part.get("additionalProperties") is not None:
                extra.append(part["additionalProperties"])
            if part.get("unevaluatedProperties") is False:
                extra.append(False)
        listing = sum("properties" in part for part in parts)
        if extra and listing > 1:
            self._give_up("The keyword additionalProperties beside allOf is not supported.")
        closed = any(schema is False for schema in extra)
        if not closed:
            declared |= {name: extra for name in sorted(required) if name not in declared}
        # Where nothing is said of others, there are none: the model was told of these only.
        open_ = bool(extra) if listing else True
        return self._made(declared, required, None if closed or not open_ else extra)

    def _made(
        self, declared: Mapping[str, list[Any]], required: set[str], extra: list[Any] | None
    ) -> ToolSchema:
        values: dict[str, str] = {}
        banned: set[str] = set()
        for key, schemas in declared.items():
            if any(schema is False for schema in schemas):
                banned.add(key)
            elif not key or any(c in key for c in "<>\n") or key != key.strip():
                self._give_up(f"The parameter name {key!r:.80} is not supported.")
            else:
                values[key] = self._value(_all_of(schemas))
        if missing := required - values.keys():
            self._give_up(f"The required parameter {min(missing)!r:.80} cannot be given.")
        others = None if extra is None else self._value(_all_of(extra))
        needed = frozenset(required & values.keys())
        return ToolSchema(values, needed, others, frozenset(banned))

    def _parts(self, schema: Any, depth: int) -> Iterator[Mapping[str, Any]]:
        """Schemas that all hold where `schema` does, but for what is given up."""
        self._left -= 1
        if self._left < 0 or depth > _NESTING:
            self._give_up("The schema's references are too many or nested too deeply.")
            return
        if not isinstance(schema, Mapping):
            return
        for keyword in _DEMANDS:
            if schema.get(keyword) is not None and not idle(schema, keyword):
                self._give_up(f"The keyword {keyword} of the tool's own schema is not supported.")
        kind = schema.get("type")
        if kind is not None and kind != "object" and "object" not in kind:
            self._give_up(f"A tool's schema must be of type object; got {kind!r:.80}.")
        yield schema
        reference = schema.get("$ref")
        if isinstance(reference, str):
            led = target(reference, self._root)
            if led is None:
                self._give_up(f"The reference {reference:.100} leads nowhere.")
            yield from self._parts(led, depth + 1)
        parts = schema.get("allOf")
        for part in parts if isinstance(parts, list) else ():
            yield from self._parts(part, depth + 1)

    def _value(self, schema: Schema) -> str:
        root = self._root
        for _ in range(_LOOSENINGS):
            try:
                text = value_grammar(schema, root, self._param)
                self._compiles(text, self._param)
                return text
            except GrammarError as error:
                self._give_up(str(error))
                if error.keyword is None:
                    break
                schema = without(schema, error.keyword, error.value)
                root = without(root, error.keyword, error.value)
        kinds = kinds_of(schema, root if isinstance(root, Mapping) else {})
        return value_grammar({"type": sorted(kinds)}, {}, self._param) if kinds else _ANY

    def _give_up(self, text: str) -> None:
        if self._strict:
            raise GrammarError(f"{self._name}: {text}", self._param)
        log.warning("%s: not enforced: %s", self._name, text)


def _all_of(schemas: list[Any]) -> Schema:
    if not schemas:
        return True
    return schemas[0] if len(schemas) == 1 else {"allOf": schemas}
