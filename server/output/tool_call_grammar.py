"""A tool call in the model's XML-like form, as rules for its tokens, segment by segment.

A segment is the head with the name, the choice of the next parameter, a parameter's value, or the
end; each ends at a line's end, where tokens end by themselves (but for the newlines that a value
begins with), and is a small grammar of its own. So parameters come in any order, each once, and the
required ones before the end. Knows the tools
and llguidance, not where in an answer a call stands.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance

from .grammar_error import GrammarError
from .value_grammar import value_grammar
from .vocabulary import Mask, Vocabulary

log = logging.getLogger(__name__)

_PARAMETER, _FUNCTION_END = "<parameter=", "</function>"
_KEPT = 2048  # compiled grammars
_ANY = 'start: v\nv[suffix="\\n</parameter>\\n"]: /(?s:.*)/'
Schema = Mapping[str, Any]


class CompiledCache:
    """Matchers at the beginning of their grammars, by the grammar's text. Safe from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._kept: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def lark(self, text: str, param: str = "") -> llguidance.LLMatcher:
        """To be copied, not used itself. Raises GrammarError when it cannot be compiled."""
        return self.get(llguidance.LLMatcher.grammar_from_lark(text), param)

    def get(self, grammar: str, param: str) -> llguidance.LLMatcher:
        """The same for a grammar in llguidance's own form."""
        with self._lock:
            known = self._kept.get(grammar)
            if known is not None:
                self._kept.move_to_end(grammar)
                return known
        matcher = self.vocabulary.matcher(grammar)
        if matcher.is_error():
            told = " ".join(matcher.get_error().split())[:300]
            raise GrammarError(f"The grammar is not supported: {told}", param)
        with self._lock:
            self._kept[grammar] = matcher
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return matcher


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """One tool: grammars of its parameters by key; `others` is that of any other key, None where
    there may be none."""

    values: Mapping[str, llguidance.LLMatcher]
    required: frozenset[str]
    others: llguidance.LLMatcher | None


class ToolGrammars:
    """The tools that may be called."""

    def __init__(self, cache: CompiledCache, tools: Mapping[str, ToolGrammar]) -> None:
        self.cache = cache
        self.tools = tools
        names = " | ".join(json.dumps(name) for name in tools)
        self.head = cache.lark(f'start: "\\n<function=" ({names}) ">\\n"')
        self.line = cache.lark('start: "\\n"')
        # What may end a key's line and begin its value, by what is left of the line.
        self.overlong = {
            rest: cache.vocabulary.with_more_newlines(rest) for rest in (b">\n", b"\n")
        }

    def keys(self, tool: ToolGrammar, left: frozenset[str], *, bare: bool) -> llguidance.LLMatcher:
        """What may follow when the parameters `left` were not written yet."""
        choices = [json.dumps(f"{_PARAMETER}{key}>\n") for key in sorted(left)]
        if tool.others is not None:
            choices.append(f'"{_PARAMETER}" /[^<>\\n]{{1,64}}/ ">\\n"')
        if not left & tool.required:
            choices.append(json.dumps(_FUNCTION_END + ("" if bare else "\n")))
        return self.cache.lark(f"start: {' | '.join(choices)}")


def tool_grammars(
    tools: Sequence[Mapping[str, Any]], names: Sequence[str] | None, cache: CompiledCache
) -> ToolGrammars:
    """Of `tools`, in OpenAI's shape, those called `names` (None: all). What a tool's schema demands
    and cannot be enforced is left out, with a warning, unless the tool is `strict`: then it is a
    GrammarError."""
    compiled: dict[str, ToolGrammar] = {}
    for index, tool in enumerate(tools):
        function = tool["function"]
        if names is None or function["name"] in names:
            param = f"tools[{index}].function.parameters"
            compiled[function["name"]] = _tool_grammar(function, param, cache)
    if not compiled:
        raise GrammarError("None of the tools may be called.", "tool_choice")
    return ToolGrammars(cache, compiled)


def _tool_grammar(function: Mapping[str, Any], param: str, cache: CompiledCache) -> ToolGrammar:
    root: Schema = function.get("parameters") or {"properties": {}}
    strict = bool(function.get("strict"))
    properties = root.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    values: dict[str, llguidance.LLMatcher] = {}
    for key, schema in known.items():
        if not key or any(c in key for c in "<>\n") or key != key.strip():
            _give_up(
                strict, GrammarError(f"The parameter name {key!r:.80} is not supported.", param)
            )
            continue
        values[key] = _value(schema, root, param, cache, strict=strict)
    extra = root.get("additionalProperties", properties is None)
    others = None
    if extra is not False and extra is not None:
        others = _value(extra, root, param, cache, strict=strict)
    required = root.get("required")
    demanded = frozenset(r for r in required if r in values) if isinstance(required, list) else ()
    return ToolGrammar(values, frozenset(demanded), others)


def _value(
    schema: Any, root: Schema, param: str, cache: CompiledCache, *, strict: bool
) -> llguidance.LLMatcher:
    try:
        return cache.lark(value_grammar(schema, root, param), param)
    except GrammarError as error:
        _give_up(strict, error)
    for looser in _looser(schema):
        try:
            return cache.lark(value_grammar(looser, root, param), param)
        except GrammarError:
            continue
    return cache.lark(_ANY)


def _looser(schema: Any) -> list[Schema]:
    """What is left of a schema when only its type holds."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return [{"type": kind}] if kind else []


def _give_up(strict: bool, error: GrammarError) -> None:
    if strict:
        raise error
    log.warning("%s: not enforced: %s", error.param, error)


class CallMachine:
    """Follows one call from behind `<tool_call>`, or, with `bare`, from behind the `<function=...>`
    of that tool where the model forgot the tag. `done` once it is complete; `failure` when it
    cannot go on."""

    def __init__(self, grammars: ToolGrammars, call_end: int, bare: str | None = None) -> None:
        self._grammars = grammars
        self._vocabulary = grammars.cache.vocabulary
        self._call_end = call_end
        self._bare = bare is not None
        self._tool = grammars.tools.get(bare or "")
        self._left: frozenset[str] = frozenset(self._tool.values if self._tool else ())
        self._place = "line" if self._bare else "head"
        self._matcher = (grammars.line if self._bare else grammars.head).deep_copy()
        self._text = b""
        self.done = False
        self.failure: str | None = None

    def accept(self, token: int) -> None:
        """The next token of the call."""
        if self._place == "end":
            self.done = token == self._call_end
            self.failure = None if self.done else "a tool call did not end"
            return
        for overlong, key, newlines in self._overlong():
            if overlong == token:
                self._enter_value(key)
                if not self._matcher.consume_tokens(self._vocabulary.tokens(newlines)):
                    self.failure = "a tool call left its grammar"
                return
        self._text += self._vocabulary.text(token)
        if not self._matcher.consume_token(token):
            self.failure = "a tool call left its grammar"
        elif self._matcher.is_stopped():
            if self._matcher.is_error():
                self.failure = self._matcher.get_error()[:200]
            else:
                self._next(self._text.decode("utf-8", "replace"))

    def mask(self) -> Mask:
        """The tokens that may follow."""
        if self._place == "end":
            return self._vocabulary.mask([self._call_end])
        mask = self._vocabulary.allowed(self._matcher)
        begun = [
            token
            for token, key, newlines in self._overlong()
            if self._value_of(key).deep_copy().consume_tokens(self._vocabulary.tokens(newlines))
        ]
        return mask | self._vocabulary.mask(begun) if begun else mask

    def _overlong(self) -> Iterator[tuple[int, str, bytes]]:
        """Tokens that end the line of a key and begin its value with newlines: each with that key
        and those newlines."""
        if self._place != "key" or not self._text.startswith(_PARAMETER.encode()):
            return
        for rest in (b">\n", b"\n"):
            key = self._text.removeprefix(_PARAMETER.encode()).decode("utf-8", "replace")
            if rest == b"\n" and not key.endswith(">"):
                continue
            key = key.removesuffix(">") if rest == b"\n" else key
            if key in self._left:
                for token, newlines in self._grammars.overlong[rest]:
                    yield token, key, newlines

    def _next(self, text: str) -> None:
        """The segment `text` is complete."""
        self._text = b""
        if self._place == "head":
            name = text.split("=", 1)[1].removesuffix(">\n")
            self._tool = self._grammars.tools[name]
            self._left = frozenset(self._tool.values)
        if self._place == "key" and text.startswith(_FUNCTION_END):
            self._place, self.done = "end", self._bare
            return
        if self._place == "key":
            self._enter_value(text.removeprefix(_PARAMETER).removesuffix(">\n"))
            return
        if self._tool is None:
            raise AssertionError("a call has a name by now")
        keys = self._grammars.keys(self._tool, self._left, bare=self._bare)
        self._place, self._matcher = "key", keys.deep_copy()

    def _enter_value(self, key: str) -> None:
        self._matcher = self._value_of(key).deep_copy()
        self._left -= {key}
        self._place, self._text = "value", b""

    def _value_of(self, key: str) -> llguidance.LLMatcher:
        tool = self._tool
        value = None if tool is None else tool.values.get(key) or tool.others
        if value is None:
            raise AssertionError(f"no such parameter: {key}")
        return value
