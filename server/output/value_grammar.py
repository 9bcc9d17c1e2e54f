"""A tool's parameter as the model writes it, as a grammar: text that is a value of its schema.

Strings are bare text up to the end of the parameter, everything else is JSON. Knows the schema and
that end; not how parameters follow each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import llguidance

from .grammar_error import GrammarError
from .json_schema import enforceable
from .schema_facts import Schema, resolved

END = "\n</parameter>\n"
_END_REGEX = r"\n<\/parameter>\n"
_MAX_LENGTH = 4096
_UNIONS = 16
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_YEAR, _CLOCK = (
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])",
    r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]",
)
_ZONE = r"(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_HOST = (
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS = {
    "date": _YEAR,
    "time": _CLOCK + _ZONE,
    "date-time": f"{_YEAR}T{_CLOCK}{_ZONE}",
    "uuid": "[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "email": r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@" + _HOST,
    "hostname": _HOST,
    "ipv4": rf"({_BYTE}\.){{3}}{_BYTE}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+",
}


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
    forms: list[_Form] = []
    for form in _forms(schema, root, param, 0):
        forms += [form] if form not in forms else []
    if _Text(()) in forms:
        forms = [_Text(())]
    rules: list[str] = []
    for number, form in enumerate(forms):
        match form:
            case _Literal(text):
                rules.append(f"a{number}: {json.dumps(text + END)}")
            case _Text(()):
                rules.append(f"a{number}[suffix={json.dumps(END)}]: /(?s:.*)/")
            case _Text(regexes):
                whole = " & ".join(_regex(regex) for regex in regexes)
                rules.append(f"a{number}[lazy]: {whole}")
            case _Json(inner):
                text = json.dumps({**inner, "x-guidance": _JSON})
                rules.append(f"a{number}: j{number} {json.dumps(END)}\nj{number}: %json {text}")
    start = " | ".join(f"a{number}" for number in range(len(forms)))
    return "\n".join([f"start: {start}", *rules])


def _regex(regex: str) -> str:
    body = llguidance.regex_to_lark(f"({regex}){_END_REGEX}", "dw")
    return f"/{body}/"


def _forms(schema: Schema, root: Schema, param: str, depth: int) -> Iterator[_Form]:
    whole, schema = schema, resolved(schema, root)
    if schema is None:
        raise GrammarError(f"The reference in {json.dumps(whole)[:100]} leads nowhere.", param)
    if depth > _UNIONS:
        raise GrammarError("The schema's unions are nested too deeply.", param)
    if not isinstance(schema, Mapping):
        if schema is False:
            raise GrammarError("A schema of false allows no value.", param)
        yield _Text(())
        return
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        yield from map(_literal, values)
        return
    branches = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(branches, list) and "type" not in schema:
        for branch in branches:
            yield from _forms(branch, root, param, depth + 1)
        return
    yield from _typed_forms(schema, root, param)


def _literal(value: Any) -> _Literal:
    return _Literal(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _typed_forms(schema: Mapping[str, Any], root: Schema, param: str) -> Iterator[_Form]:
    declared = schema.get("type")
    kinds = [declared] if isinstance(declared, str) else list(declared or ())
    if not kinds:
        kinds = [k for k, key in (("object", "properties"), ("array", "items")) if key in schema]
    if not kinds and "allOf" not in schema:
        yield _Text(tuple(_string_rules(schema, param)))
        return
    if "string" in kinds:
        yield _Text(tuple(_string_rules(schema, param)))
    others = [kind for kind in kinds if kind != "string"]
    if others or not kinds:
        yield _Json(_standing_alone(schema, others, root, param))


def _string_rules(schema: Mapping[str, Any], param: str) -> Iterator[str]:
    """Regular expressions that all hold for a string of `schema`."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if least or most is not None:
        if max(least, most or 0) > _MAX_LENGTH:
            raise GrammarError(f"A length above {_MAX_LENGTH} is not supported.", param)
        yield f"(?s:.{{{least},{'' if most is None else most}}})"
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        # A pattern may match anywhere, and its `^` and `$` are those of the whole.
        inner = pattern.removeprefix("^")
        before = "" if pattern.startswith("^") else "(?s:.*)"
        ends = inner.endswith("$") and not inner.endswith("\\$")
        inner = inner[:-1] if ends else inner
        if ("|" in pattern) and (before == "" or ends):
            _check_alternatives(pattern, param)
        yield f"{before}({inner}){'' if ends else '(?s:.*)'}"
    form = schema.get("format")
    if form is not None:
        if form not in FORMATS:
            raise GrammarError(
                f"The keyword format has the value {form!r}, which is not supported.", param
            )
        yield FORMATS[form]


def _check_alternatives(pattern: str, param: str) -> None:
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
            raise GrammarError("A pattern with anchored alternatives is not supported.", param)
        else:
            depth += (character == "(") - (character == ")")


def _standing_alone(
    schema: Mapping[str, Any], kinds: list[str], root: Schema, param: str
) -> Mapping[str, Any]:
    """`schema` for `kinds`, with the definitions that its references need."""
    whole = dict(schema)
    if kinds:
        whole["type"] = kinds[0] if len(kinds) == 1 else kinds
    if isinstance(root, Mapping):
        for key in ("$defs", "definitions"):
            if key in root:
                whole.setdefault(key, root[key])
    ready = enforceable(whole, param)
    return ready if isinstance(ready, Mapping) else {}
