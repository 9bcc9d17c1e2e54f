"""Which tokens may come next in one answer: its thought, then calls, text or a structured answer.

Sleeps wherever anything goes. Knows token ids, tool calls and grammars; not the model, nor how the
text is told apart afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import llguidance

from .compiled_cache import CompiledCache, told
from .tool_call_grammar import CallMachine, ToolGrammars
from .vocabulary import Mask

log = logging.getLogger(__name__)


class Grammar(Protocol):
    """server.engine.request.GrammarSpec."""

    @property
    def kind(self) -> str: ...
    @property
    def value(self) -> Any: ...
    @property
    def param(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OutputRules:
    """What is demanded of an answer.

    thinking: it begins inside a thought; opened: the prompt ends where content begins at once.
    tools: those offered, in OpenAI's shape; tool_places: the wire's fields that hold them;
    tool_mode: "auto", "none" or "required"; tool_names: those that may be called, None for all;
    parallel: whether there may be several calls. grammar:
    what the answer has to match.
    """

    thinking: bool
    opened: bool
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_places: Sequence[str] = ()
    tool_mode: str = "auto"
    tool_names: Sequence[str] | None = None
    parallel: bool = True
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules, compiled. calls: None where no tool may be called; answer: the structured answer's
    matcher, to be copied; gap: that of the blank line between a thought and such an answer;
    call_start, call_end, think_end: ids."""

    rules: OutputRules
    cache: CompiledCache
    calls: ToolGrammars | None
    answer: llguidance.LLMatcher | None
    gap: llguidance.LLMatcher
    call_start: int
    call_end: int
    think_end: int | None
    newline: int

    @property
    def must_call(self) -> bool:
        return self.rules.tool_mode == "required" and self.calls is not None

    @property
    def must_answer(self) -> bool:
        """Whether something has to follow a thought."""
        return self.answer is not None or self.must_call


class _Place(Enum):
    THOUGHT = auto()
    GAP = auto()  # the blank line after a thought, where something certain follows
    MUST_CALL = auto()
    CALL = auto()
    BESIDE = auto()  # after a call, when there must be calls: another one, or the end
    TEXT = auto()
    ANSWER = auto()
    END = auto()


_MAY_CALL = {_Place.THOUGHT, _Place.MUST_CALL, _Place.BESIDE, _Place.TEXT, _Place.ANSWER}


class Constraint:
    """Follows one answer. Nothing here raises: what goes wrong is told by `failure`, after which
    anything goes, and the answer is to be given up."""

    def __init__(self, plan: Plan) -> None:
        self.failure: str | None = None
        self._plan = plan
        self._vocabulary = plan.cache.vocabulary
        self._tail = b""
        self._matcher: llguidance.LLMatcher | None = None
        self._call: CallMachine | None = None
        self._place = _Place.THOUGHT
        self._begun = False  # the structured answer
        if not plan.rules.thinking:
            self._after_thought(opened=plan.rules.opened)

    def copy(self) -> Constraint:
        """One of its own for another answer, from the beginning."""
        return Constraint(self._plan)

    def accept(self, token: int) -> None:
        """`token` was sampled, or fed in its place."""
        if self.failure is not None or token < 0:
            return
        try:
            self._accept(token)
        except Exception as error:
            log.exception("a grammar failed")
            self._fail(f"{type(error).__name__} in a grammar")

    def mask(self) -> Mask | None:
        """The tokens that may follow, None for all."""
        if self.failure is not None:
            return None
        try:
            mask = self._mask()
        except Exception as error:
            log.exception("a grammar failed")
            self._fail(f"{type(error).__name__} in a grammar")
            return None
        if mask is not None and not mask.any():
            self._fail("no token is allowed")
        return mask if self.failure is None else None

    def _fail(self, text: str) -> None:
        self.failure = self.failure or text
        self._plan.cache.forget()

    # -- what follows what

    def _accept(self, token: int) -> None:
        plan = self._plan
        if token in self._vocabulary.ends:
            self._place = _Place.END
            return
        at_start = not (self._place is _Place.ANSWER and self._begun)
        if plan.calls and token == plan.call_start and self._place in _MAY_CALL and at_start:
            self._enter_call()
            return
        match self._place:
            case _Place.THOUGHT if token == plan.think_end:
                self._tail = b""
                self._after_thought(opened=False)
            case _Place.GAP if self._consume(token):
                self._after_gap()
            case _Place.TEXT | _Place.THOUGHT:
                self._look_for_head(token)
            case _Place.CALL:
                self._accept_call(token)
            case _Place.ANSWER:
                self._begun = True
                if self._consume(token):
                    self._place = _Place.END
            case _:
                pass

    def _mask(self) -> Mask | None:
        plan, vocabulary = self._plan, self._vocabulary
        if plan.rules.tool_mode == "none" and plan.answer is None:
            return vocabulary.all_but([plan.call_start]) if plan.rules.tools else None
        match self._place:
            case _Place.THOUGHT if plan.must_answer:
                return vocabulary.all_but(vocabulary.ends)
            case _Place.THOUGHT | _Place.TEXT:
                return None
            case _Place.MUST_CALL:
                return vocabulary.mask([plan.call_start])
            case _Place.BESIDE:
                return vocabulary.mask([plan.call_start, plan.newline, vocabulary.eos])
            case _Place.CALL if self._call is not None:
                return self._call.mask()
            case _Place.GAP | _Place.ANSWER if self._matcher is not None:
                allowed = vocabulary.allowed(self._matcher)
                if self._matcher.is_error():
                    self._fail(told(self._matcher))
                if self._place is _Place.ANSWER and not self._begun and plan.calls is not None:
                    return allowed | vocabulary.mask([plan.call_start])
                return allowed
            case _:
                return vocabulary.mask([vocabulary.eos])

    def _consume(self, token: int) -> bool:
        """Moves the matcher on; whether it is at its end."""
        if self._matcher is None or not self._matcher.consume_token(token):
            why = "" if self._matcher is None else told(self._matcher)
            self._fail(why or "a token was fed that the grammar does not allow")
            return False
        if self._matcher.is_error():
            self._fail(told(self._matcher))
        return self._matcher.is_stopped()

    def _after_thought(self, *, opened: bool) -> None:
        plan = self._plan
        if plan.answer is None and not plan.must_call:
            self._place = _Place.TEXT
        elif opened:
            self._after_gap()
        else:
            self._place, self._matcher = _Place.GAP, plan.gap.deep_copy()

    def _after_gap(self) -> None:
        plan = self._plan
        if plan.must_call:
            self._place = _Place.MUST_CALL
        elif plan.answer is not None:
            self._place, self._matcher = _Place.ANSWER, plan.answer.deep_copy()

    def _enter_call(self, bare: str | None = None) -> None:
        if self._plan.calls is not None:
            self._tail = b""
            self._place = _Place.CALL
            self._call = CallMachine(self._plan.calls, self._plan.call_end, bare)

    def _accept_call(self, token: int) -> None:
        if self._call is None:
            return
        self._call.accept(token)
        if self._call.failure is not None:
            self._fail(self._call.failure)
        elif self._call.done:
            self._call = None
            rules = self._plan.rules
            if not rules.parallel or self._plan.answer is not None:
                self._place = _Place.END
            else:
                self._place = _Place.BESIDE if self._plan.must_call else _Place.TEXT

    def _look_for_head(self, token: int) -> None:
        """A call may begin without its tag, or with one that is spelled, even in a thought: from
        there on it is a call all the same."""
        calls = self._plan.calls
        if calls is None:
            return
        text = self._vocabulary.text(token)
        self._tail = (self._tail + text)[-calls.longest_head :] if text else b""
        pattern = calls.tagged if self._place is _Place.THOUGHT else calls.untagged
        found = pattern.search(self._tail)
        if found is None:
            return
        rest = self._tail[found.end() :]
        self._enter_call(found[1].decode())
        for part in self._vocabulary.tokens(rest) if rest else ():
            self._accept_call(part)
