"""A tool's parameter as the model writes it, as a grammar: text that is a value of its schema.

Strings are bare text up to the end of the parameter, everything else is JSON. Knows the schema and
that end; not how parameters follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance

from .grammar_error import GrammarError
from .json_schema import enforceable, spelling
from .lark import alternatives
from .schema_facts import Schema, canonical, exclusive, target, types
from .schema_values import allows
from .standing_alone import standing_alone
from .text_formats import FORMATS

END = "\n</parameter>\n"
_END_REGEX = r"\n<\/parameter>\n"
_MAX_LENGTH = 4096
_NESTING = 16
_MOST_FORMS = 64
_STEPS = 4096  # schemas looked at for one parameter
_COMPARED = 64  # branches of a oneOf
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Keywords of any value that a text of its own is not held to.
_NOT_FOR_TEXT = ("not", "if", "$dynamicRef", "$recursiveRef", "disallow", "extends")
# What a schema that names no type is about, by its keywords.
_TOLD_BY = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "string": ("minLength", "maxLength", "pattern", "format"),
}

Conjuncts = list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Literal:
    text: str


@dataclass(frozen=True, slots=True)
class _Text:
    regexes: tuple[str, ...]  # all of which hold; none: any text


@dataclass(frozen=True, slots=True)
class _Json:
    schema: Mapping[str, Any]


_Form = _Literal | _Text | _Json


def value_grammar(schema: Schema, root: Schema, param: str) -> str:
    """Lark for the value of a parameter with `schema`, END included. `root` holds what its
    references point to. Raises GrammarError for what cannot be enforced."""
    reader = _Reader(root, param)
    literals: dict[str, None] = {}
    forms: list[_Text | _Json] = []
    for form in reader.forms(reader.conjuncts(schema), 0):
        if isinstance(form, _Literal):
            literals[form.text] = None
        elif form not in forms:
            forms.append(form)
        if len(forms) > _MOST_FORMS:
            raise GrammarError("The schema has too many alternatives.", param)
    if not forms and not literals:
        raise GrammarError("The schema allows no value.", param)
    if _Text(()) in forms:
        return _lark([], [_Text(())])
    return _lark(list(literals), forms)


def _lark(literals: Sequence[str], forms: Sequence[_Text | _Json]) -> str:
    names = [f"a{number}" for number in range(len(forms))]
    lines = [f"start: {' | '.join([*names, *(['LITERAL'] if literals else [])])}"]
    if literals:
        lines.append(f"LITERAL: {alternatives(text + END for text in literals)}")
    for name, form in zip(names, forms, strict=True):
        if isinstance(form, _Json):
            options = _JSON | spelling(form.schema)
            text = json.dumps({**form.schema, "x-guidance": options})
            lines += [f"{name}: {name}_json {json.dumps(END)}", f"{name}_json: %json {text}"]
        elif form.regexes:
            lines.append(f"{name}[lazy]: {' & '.join(_regex(regex) for regex in form.regexes)}")
        else:
            lines.append(f"{name}[suffix={json.dumps(END)}]: /(?s:.*)/")
    return "\n".join(lines)


def _regex(regex: str) -> str:
    body = llguidance.regex_to_lark(f"({regex}){_END_REGEX}", "dw")
    return f"/{body}/"


class _Reader:
    """Takes a schema apart into the forms that its values are written in. `root` holds what
    references lead to."""

    def __init__(self, root: Schema, param: str) -> None:
        self._root = root
        self._param = param
        self._left = _STEPS

    def conjuncts(self, schema: Any, depth: int = 0) -> Conjuncts:
        """Schemas that all hold where `schema` does, none of them with `$ref` or `allOf`."""
        self._left -= 1
        if self._left < 0 or depth > _NESTING:
            raise self._error("The schema's references are too many or nested too deeply.")
        if schema is False:
            raise self._error("A schema of false allows no value.")
        if not isinstance(schema, Mapping):
            return []
        own = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
        found: Conjuncts = [own] if own else []
        reference, parts = schema.get("$ref"), schema.get("allOf")
        if reference is not None:
            led = target(reference, self._root) if isinstance(reference, str) else None
            if led is None:
                raise self._error(f"The reference {json.dumps(reference)[:100]} leads nowhere.")
            found += self.conjuncts(led, depth + 1)
        for part in parts if isinstance(parts, list) else ():
            found += self.conjuncts(part, depth + 1)
        return found

    def forms(self, schemas: Conjuncts, depth: int) -> Iterator[_Form]:
        """The forms of values that all `schemas` allow."""
        self._left -= len(schemas)
        if self._left < 0 or depth > _NESTING:
            raise self._error("The schema's unions are too many or nested too deeply.")
        for index, schema in enumerate(schemas):
            for union in ("anyOf", "oneOf"):
                branches = schema.get(union)
                if not isinstance(branches, list):
                    continue
                pairwise = len(branches) <= _COMPARED
                if union == "oneOf" and not exclusive(branches, self._root, pairwise=pairwise):
                    text = "is not supported where more than one of its schemas may match"
                    raise self._error(f"The keyword oneOf {text}.", "oneOf")
                rest = {key: value for key, value in schema.items() if key != union}
                others = [*schemas[:index], rest, *schemas[index + 1 :]]
                for branch in branches:
                    if branch is not False:
                        yield from self.forms([*others, *self.conjuncts(branch)], depth + 1)
                return
        values = self._values(schemas)
        if values is None:
            yield from self._typed(schemas)
            return
        for value in values:
            yield _Literal(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            )

    def _values(self, schemas: Conjuncts) -> list[Any] | None:
        """Those that all `schemas` allow, where one of them lists its values."""
        lists = [found for schema in schemas if (found := _listed(schema)) is not None]
        if not lists:
            return None
        self._check(schemas)
        shared = set.intersection(*(set(map(canonical, found)) for found in lists))
        unlisted = [{k: v for k, v in s.items() if k not in ("const", "enum")} for s in schemas]
        return [
            value
            for value in lists[0]
            if canonical(value) in shared and all(allows(s, value, self._root) for s in unlisted)
        ]

    def _typed(self, schemas: Conjuncts) -> Iterator[_Form]:
        kinds = _kinds(schemas)
        if "string" in kinds or kinds == {"any"}:
            self._check(schemas)
            yield _Text(tuple(rule for schema in schemas for rule in self._string_rules(schema)))
        others = sorted(kinds - {"string", "any"})
        if others:
            yield _Json(self._standing_alone(schemas, others))

    def _check(self, schemas: Conjuncts) -> None:
        for keyword in _NOT_FOR_TEXT:
            if any(keyword in schema for schema in schemas):
                raise self._error(f"The keyword {keyword} is not supported.", keyword)

    def _string_rules(self, schema: Mapping[str, Any]) -> Iterator[str]:
        """Regular expressions that all hold for a string of `schema`."""
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if least or most is not None:
            if max(least, most or 0) > _MAX_LENGTH:
                keyword = "minLength" if least > _MAX_LENGTH else "maxLength"
                raise self._error(f"A length above {_MAX_LENGTH} is not supported.", keyword)
            yield f"(?s:.{{{least},{'' if most is None else most}}})"
        pattern = schema.get("pattern")
        if isinstance(pattern, str):
            # A pattern may match anywhere, and its `^` and `$` are those of the whole.
            inner = pattern.removeprefix("^")
            before = "" if pattern.startswith("^") else "(?s:.*)"
            ends = inner.endswith("$") and not inner.endswith("\\$")
            inner = inner[:-1] if ends else inner
            if ("|" in pattern) and (before == "" or ends):
                self._check_alternatives(pattern)
            yield self._checked(f"{before}({inner}){'' if ends else '(?s:.*)'}")
        form = schema.get("format")
        if form is not None:
            if form not in FORMATS:
                text = f"The keyword format has the value {form!r:.80}, which is not supported."
                raise self._error(text, "format", form)
            yield FORMATS[form]

    def _checked(self, regex: str) -> str:
        grammar = llguidance.LLMatcher.grammar_from_regex(regex)
        if told := llguidance.LLMatcher.validate_grammar(grammar):
            text = f"A pattern is not supported: {' '.join(told.split())[:200]}"
            raise self._error(text, "pattern")
        return regex

    def _check_alternatives(self, pattern: str) -> None:
        """In `^a|b$` each anchor belongs to one alternative only, which is not enforced."""
        depth, escaped, bracket = 0, False, False
        for character in pattern:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif bracket:
                bracket = character != "]"
            elif character == "[":
                bracket = True
            elif character == "|" and depth == 0:
                text = "A pattern with anchored alternatives is not supported."
                raise self._error(text, "pattern")
            else:
                depth += (character == "(") - (character == ")")

    def _standing_alone(self, schemas: Conjuncts, kinds: list[str]) -> Mapping[str, Any]:
        """`schemas` as one for `kinds`, with the definitions that its references need."""
        whole: dict[str, Any] = dict(schemas[0]) if len(schemas) == 1 else {"allOf": schemas}
        whole["type"] = kinds[0] if len(kinds) == 1 else kinds
        return enforceable(standing_alone(whole, self._root), self._param)

    def _error(
        self, message: str, keyword: str | None = None, value: object = None
    ) -> GrammarError:
        return GrammarError(message, self._param, keyword=keyword, value=value)


def _listed(schema: Mapping[str, Any]) -> list[Any] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _kinds(schemas: Conjuncts) -> set[str]:
    """The types that all `schemas` allow; where none is named, those that their keywords are about,
    and "any" where nothing is told."""
    kinds: set[str] | None = None
    for schema in schemas:
        named = types(schema)
        if named:
            kinds = named if kinds is None else kinds & named
    if kinds is None:
        told = {
            kind
            for kind, keywords in _TOLD_BY.items()
            if any(keyword in schema for schema in schemas for keyword in keywords)
        }
        return told or {"any"}
    return kinds - {"integer"} if "number" in kinds else kinds
