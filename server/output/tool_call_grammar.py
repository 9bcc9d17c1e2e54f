"""A tool call in the model's XML-like form, as rules for its tokens, segment by segment.

A segment is the head with the name, the choice of the next parameter, a parameter's value, or the
end; each ends at a line's end, where tokens end by themselves (but for the newlines that a value
begins with), and is a small grammar of its own. So parameters come in any order, each once, and the
required ones before the end. Knows the tools and llguidance, not where in an answer a call stands.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import llguidance

from .compiled_cache import CompiledCache, told
from .grammar_error import GrammarError
from .lark import alternatives
from .tool_call import HEAD_ROOM
from .tool_schema import ToolSchema, tool_schema
from .vocabulary import Mask

_PARAMETER, _FUNCTION_END = "<parameter=", "</function>"
_KEPT = 512  # schemas of tools
MAX_BYTES = 2 << 20


class ToolCache:
    """Compiled tools, kept for the requests that bring them again. Safe from any thread."""

    def __init__(self, grammars: CompiledCache) -> None:
        self.grammars = grammars
        self._schemas: OrderedDict[str, ToolSchema] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, function: Mapping[str, Any], param: str) -> ToolGrammar:
        """That of `function`, in OpenAI's shape. Raises GrammarError."""
        key = json.dumps([function.get(k) for k in ("name", "parameters", "strict")])
        with self._lock:
            schema = self._schemas.get(key)
        if schema is None:
            schema = tool_schema(function, param, self.grammars.lark)
        with self._lock:
            self._schemas[key] = schema
            self._schemas.move_to_end(key)
            while len(self._schemas) > _KEPT:
                self._schemas.popitem(last=False)
        return _compiled(schema, param, self.grammars)


@dataclass(frozen=True, slots=True)
class ToolGrammar:
    """One tool: grammars of its parameters by key; `others` is that of any other key but the
    `banned`, None where there may be none."""

    values: Mapping[str, llguidance.LLMatcher]
    required: frozenset[str]
    others: llguidance.LLMatcher | None
    banned: frozenset[str]


class ToolGrammars:
    """The tools that may be called."""

    def __init__(self, cache: CompiledCache, tools: Mapping[str, ToolGrammar]) -> None:
        self.cache = cache
        self.tools = tools
        spelled = b"|".join(re.escape(name.encode()) for name in tools)
        head = rb"<function=[ \t]*(" + spelled + rb")[ \t]*>"
        # What begins a call in text; in a thought only behind a tag, which may be spelled too.
        self.untagged = re.compile(head)
        self.tagged = re.compile(rb"<tool_call>\s*" + head)
        self.longest_head = 2 * HEAD_ROOM + max(len(name.encode()) for name in tools)
        heads = alternatives(f"\n<function={name}>\n" for name in tools)
        self.head = cache.lark(f"start: HEAD\nHEAD: {heads}")
        self.line = cache.lark('start: "\\n"')
        # What may end a key's line and begin its value, by what is left of the line.
        self.overlong = {
            rest: cache.vocabulary.with_more_newlines(rest) for rest in (b">\n", b"\n")
        }

    def keys(self, tool: ToolGrammar, left: frozenset[str], *, bare: bool) -> llguidance.LLMatcher:
        """What may follow when the parameters `left` were not written yet."""
        choices = [f"{_PARAMETER}{key}>\n" for key in sorted(left)]
        if not left & tool.required:
            choices.append(_FUNCTION_END + ("" if bare else "\n"))
        lines = [f"LISTED: {alternatives(choices)}"] if choices else []
        starts = ["LISTED"] if choices else []
        if tool.others is not None:
            but = f" & ~({alternatives(sorted(tool.banned))})" if tool.banned else ""
            lines += [f'OTHER: "{_PARAMETER}" NAME ">\\n"', f"NAME: /[^<>\\n]{{1,64}}/{but}"]
            starts.append("OTHER")
        return self.cache.lark("\n".join([f"start: {' | '.join(starts)}", *lines]))


def tool_grammars(
    tools: Sequence[Mapping[str, Any]],
    places: Sequence[str],
    names: Sequence[str] | None,
    cache: ToolCache,
) -> ToolGrammars:
    """Of `tools`, in OpenAI's shape, those called `names` (None: all); `places` are the wire's
    fields that hold them. What a tool's schema demands and cannot be enforced is left out, with a
    warning, unless the tool is `strict`: then it is a GrammarError."""
    size = sum(len(json.dumps(tool)) for tool in tools)
    if size > MAX_BYTES:
        raise GrammarError(f"The tools have {size} bytes; {MAX_BYTES} are allowed.", "tools")
    compiled: dict[str, ToolGrammar] = {}
    for index, tool in enumerate(tools):
        function = tool["function"]
        if names is None or function["name"] in names:
            place = places[index] if index < len(places) else f"tools[{index}].function"
            compiled[function["name"]] = cache.get(function, f"{place}.parameters")
    if not compiled:
        raise GrammarError("None of the tools may be called.", "tool_choice")
    return ToolGrammars(cache.grammars, compiled)


def _compiled(schema: ToolSchema, param: str, cache: CompiledCache) -> ToolGrammar:
    return ToolGrammar(
        {key: cache.lark(text, param) for key, text in schema.values.items()},
        schema.required,
        None if schema.others is None else cache.lark(schema.others, param),
        schema.banned,
    )


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
                self.failure = told(self._matcher)
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
