"""One choice's answer as it grows: token ids in, events out.

Counts tokens, ends at eos, stop strings and the limit, and says when the thought has to be closed.
Knows token ids and text, not the model that makes them.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from model.thinking import ThinkingBudget
from server.engine.events import (
    ContentDelta,
    Event,
    FinishReason,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)
from server.engine.ports import Detokenizer
from server.output.events import (
    ContentText,
    OutputEvent,
    ReasoningText,
    StopHit,
    ToolCallArguments,
    ToolCallCut,
    ToolCallStart,
)


class Output(Protocol):
    """What tells the answer's text apart: server.output.parser, or server.output.plain."""

    @property
    def in_content(self) -> bool: ...
    def feed(self, text: str, /) -> Iterable[OutputEvent]: ...
    def finish(self) -> Iterable[OutputEvent]: ...


@dataclass(slots=True)
class Limits:
    """What ends an answer or its thought. tokens: most tokens of the answer; eos: ids that end it;
    think_end: the id of `</think>`, None where it has none; budget: None is no limit; closing: the
    ids that close a thought whose budget is spent."""

    tokens: int
    eos: frozenset[int]
    think_end: int | None
    budget: ThinkingBudget | None
    closing: tuple[int, ...]


@dataclass(slots=True)
class Answer:
    """The answer of choice `choice`. `reason` is None until it is complete."""

    choice: int
    limits: Limits
    detokenizer: Detokenizer
    parser: Output
    thinking: bool
    plain: bool = False  # a raw completion: an eos is all that has a meaning
    tokens: list[int] = field(default_factory=list)
    reasoning_tokens: int = 0
    thinking_cut: bool = False
    reason: FinishReason | None = None
    ended_by_eos: bool = False
    stop: str | None = None  # the stop string that ended it
    _thinks_still: bool = field(init=False)
    _last_text: str = ""
    _reasoning: list[str] = field(default_factory=list)
    _content: list[str] = field(default_factory=list)
    _calls: list[dict[str, Any]] = field(default_factory=list)
    _logprobs: list[TokenLogprob] = field(default_factory=list)  # of content not yet reported
    _cut_call: bool = False  # the last of the calls is only begun

    def __post_init__(self) -> None:
        self._thinks_still = self.thinking

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """Calls made so far: {"id", "name", "arguments" (JSON text)}. The arguments of one that was
        cut off are the beginning that the model wrote."""
        return self._calls

    @property
    def reusable(self) -> bool:
        """Whether a client that sends the answer back sends all of it: not one cut by a stop
        string, in its thought, or in a tool call."""
        if self._cut_call:
            return False
        if self.ended_by_eos:
            return True
        return self.reason == "length" and not self._thinks_still and not self._calls

    def take(self, token: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """Adds a generated token. Sets `reason` when the answer is complete with it. logprob: its
        own, reported with the content that it is part of."""
        self.tokens.append(token)
        if token in self.limits.eos:
            self.ended_by_eos = True
            return self._end("stop")
        if token == self.limits.think_end:
            self._thinks_still = False
        elif self._thinks_still:
            self.reasoning_tokens += 1
        self._last_text = self.detokenizer.add(token)
        inside = self.parser.in_content
        events = self._translate(self.parser.feed(self._last_text))
        if logprob is not None and inside and self.parser.in_content:
            # The blank lines between a thought and its answer are no content.
            begun = self.plain or self._content or logprob.bytes.strip(b"\n")
            self._logprobs += [logprob] if begun else []
        events = self._with_logprobs(events)
        if self.reason is None and len(self.tokens) >= self.limits.tokens:
            events += self._end("length")
        return events

    def must_close(self) -> bool:
        """Whether the thought has to be closed now: feed `limits.closing` to the model and give
        its ids to close(). False where the limit leaves no room for an answer after it."""
        budget = self.limits.budget
        if budget is None or not self._thinks_still or self.reason is not None:
            return False
        if self.limits.tokens - len(self.tokens) <= len(self.limits.closing):
            return False
        return budget.spent(self.reasoning_tokens, self._last_text)

    def close(self) -> list[Event]:
        """The thought was closed by the engine."""
        self.thinking_cut = True
        events: list[Event] = []
        for token in self.limits.closing:
            if self.reason is None:
                events += self.take(token)
        self._thinks_still = False
        return events

    def _with_logprobs(self, events: list[Event]) -> list[Event]:
        """`events`, the first content among them with what is known of its tokens by now."""
        for index, event in enumerate(events):
            if isinstance(event, ContentDelta) and self._logprobs:
                logprobs, self._logprobs = tuple(self._logprobs), []
                events[index] = replace(event, logprobs=logprobs)
        return events

    def _end(self, reason: FinishReason) -> list[Event]:
        events = self._translate(self.parser.feed(self.detokenizer.flush()))
        if self.reason is None:
            events += self._translate(self.parser.finish())
        if self.reason is None:
            events = self._with_logprobs(events)
            if self._cut_call:  # also by the model itself: nobody may execute it
                reason = "length"
            self.reason = "tool_calls" if reason == "stop" and self._calls else reason
        return events

    def _translate(self, items: Iterable[OutputEvent]) -> list[Event]:
        events: list[Event] = []
        count = len(self.tokens)
        for item in items:
            match item:
                case ReasoningText(text=text):
                    self._reasoning.append(text)
                    events.append(ReasoningDelta(self.choice, text, tokens=count))
                case ContentText(text=text):
                    self._thinks_still = False
                    self._content.append(text)
                    events.append(ContentDelta(self.choice, text, tokens=count))
                case ToolCallStart(index=index, name=name):
                    self._thinks_still = False
                    call_id = f"call_{secrets.token_hex(12)}"
                    self._calls.append({"id": call_id, "name": name, "arguments": ""})
                    first = ToolCallDelta(self.choice, index, call_id, name, "", tokens=count)
                    events.append(first)
                case ToolCallArguments(index=index, text=text):
                    self._calls[index]["arguments"] += text
                    more = ToolCallDelta(self.choice, index, None, None, text, tokens=count)
                    events.append(more)
                case ToolCallCut():
                    self._cut_call = True
                case StopHit(stop=stop):
                    self.reason, self.stop = "tool_calls" if self._calls else "stop", stop
        return events
