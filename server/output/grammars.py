"""Compiles what is demanded of an answer into a constraint, in any thread, before it is queued."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import llguidance
from llguidance.gbnf_to_lark import gbnf_to_lark

from .compiled_cache import CompiledCache, told
from .constraint import Constraint, Grammar, OutputRules, Plan
from .grammar_error import GrammarError
from .json_schema import schema_grammar
from .lark import alternatives
from .tool_call_grammar import ToolCache, tool_grammars
from .vocabulary import Vocabulary

__all__ = ["GrammarError", "Grammars"]

MAX_BYTES = 256 << 10
_PROBED = 2  # tokens of an answer


class Grammars:
    """For one model's vocabulary. Building it takes up to some seconds, and holds the GIL.

    eos: ends an answer, as do all of ends; think_end, call_start, call_end: the ids of `</think>`,
    `<tool_call>` and `</tool_call>`, None where the tokenizer has none: then nothing about tools is
    enforced.
    """

    def __init__(
        self,
        tokenizer_json: str,
        *,
        vocab_size: int,
        eos: int,
        ends: Iterable[int] = (),
        think_end: int | None,
        call_start: int | None,
        call_end: int | None,
    ) -> None:
        self._vocabulary = Vocabulary(tokenizer_json, vocab_size=vocab_size, eos=eos, ends=ends)
        self._cache = CompiledCache(self._vocabulary)
        self._tools = ToolCache(self._cache)
        self._ids = think_end, call_start, call_end

    def compile(self, rules: OutputRules) -> Constraint:
        """What `rules` demand, at the beginning of an answer. Takes a millisecond or two for each
        schema not seen lately. Raises GrammarError."""
        think_end, call_start, call_end = self._ids
        calls = None
        if rules.tools and rules.tool_mode != "none" and call_start is not None:
            calls = tool_grammars(rules.tools, rules.tool_places, rules.tool_names, self._tools)
        newline = self._vocabulary.tokens(b"\n")
        return Constraint(
            Plan(
                rules=rules,
                cache=self._cache,
                calls=calls,
                answer=self._answer(rules.grammar) if rules.grammar is not None else None,
                gap=self._cache.lark('start: "\\n\\n"'),
                call_start=-1 if call_start is None else call_start,
                call_end=-1 if call_end is None else call_end,
                think_end=think_end,
                newline=newline[0],
            )
        )

    def _answer(self, grammar: Grammar) -> llguidance.LLMatcher:
        param = grammar.param
        match grammar.kind:
            case "json_schema":
                text = schema_grammar(grammar.value, param)
            case "json_object":
                text = schema_grammar({"type": "object"}, param)
            case "regex":
                text = llguidance.LLMatcher.grammar_from_regex(_text(grammar.value, param))
            case "choice":
                text = llguidance.LLMatcher.grammar_from_lark(_choices(grammar.value, param))
            case "lark":
                text = llguidance.LLMatcher.grammar_from_lark(_text(grammar.value, param))
            case "gbnf":
                text = llguidance.LLMatcher.grammar_from_lark(_lark_of(grammar.value, param))
            case _:
                raise GrammarError(f"There is no grammar of kind {grammar.kind!r}.", param)
        matcher = self._cache.get(text, param)
        self._check(matcher.deep_copy(), param)
        return matcher

    def _check(self, matcher: llguidance.LLMatcher, param: str) -> None:
        """That an answer can begin: some grammars are found to lead nowhere, or to be too large,
        only by their first masks."""
        for _ in range(_PROBED):
            allowed = self._vocabulary.first_allowed(matcher)
            if matcher.is_error():
                self._cache.forget()
                raise GrammarError(f"The grammar is not supported: {told(matcher)}", param)
            if allowed is None:
                raise GrammarError("The grammar allows no answer.", param)
            if allowed in self._vocabulary.ends:
                return
            matcher.consume_token(allowed)


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not value:
        raise GrammarError("The grammar must be a string that is not empty.", param)
    if len(value.encode("utf-8", "replace")) > MAX_BYTES:
        raise GrammarError(f"The grammar must not have more than {MAX_BYTES} bytes.", param)
    return value


def _choices(value: Any, param: str) -> str:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v for v in value):
        raise GrammarError("The choices must be a list of strings that are not empty.", param)
    if sum(len(choice.encode("utf-8", "replace")) for choice in value) > MAX_BYTES:
        raise GrammarError(f"The choices must not have more than {MAX_BYTES} bytes.", param)
    return f"start: CHOICE\nCHOICE: {alternatives(value)}"


def _lark_of(value: Any, param: str) -> str:
    text = _text(value, param)
    try:
        return gbnf_to_lark(text)
    except Exception as error:  # the converter raises what its parser does
        raise GrammarError(f"The GBNF grammar cannot be read: {error}"[:300], param) from error
