"""The model's text, told apart: thinking, answer, tool calls.

Pure and incremental: what comes out does not depend on how the text was cut into pieces. Knows the
tags that this family of models writes; knows no tokens, no wire format and nothing of when
generation ends. No tag ever shows in what comes out, but as data of a structured answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any

from .argument_writer import ArgumentWriter
from .arguments import ToolSchemas
from .events import (
    ContentText,
    OutputEvent,
    ReasoningText,
    StopHit,
    ToolCallArguments,
    ToolCallCut,
    ToolCallStart,
)
from .stop_strings import StopMatcher
from .tool_call import HEAD_ROOM, ToolCallReader

_THINK, _THINK_END, _CALL = "<think>", "</think>", "<tool_call>"
_TAGS = (_THINK, _THINK_END, _CALL, "</tool_call>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
_FUNCTION = "<function="
_FUNCTION_HEAD = re.compile(r"\s*<function=[ \t]*([^<>\n]*?)[ \t]*>", re.ASCII)


class _State(Enum):
    REASONING = auto()
    CONTENT = auto()
    CALL_HEAD = auto()
    CALL = auto()
    STOPPED = auto()


class OutputParser:
    """Parses one answer.

    `thinking`: the text begins inside the think block, which the generation prompt left open.
    `stop`: strings that end the answer, looked for in the content only. `tools`: those that may be
    called; the text of any other call is content without its tags. `structured`: the content is
    bound by a grammar, which allows no tag; what looks like one in it is data.
    """

    def __init__(
        self,
        thinking: bool,
        stop: Sequence[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        structured: bool = False,
    ) -> None:
        self._structured = structured
        self._schemas = ToolSchemas(tools)
        # A model sometimes forgets <tool_call>: an offered function's opening is a call as well.
        heads = tuple(f"{_FUNCTION}{name}>" for name in self._schemas.names if "<" not in name)
        self._tags = {_State.REASONING: _TAGS, _State.CONTENT: _TAGS + heads}
        self._patterns = {
            state: re.compile("|".join(map(re.escape, tags))) for state, tags in self._tags.items()
        }
        self._longest = max(map(len, self._tags[_State.CONTENT]))
        self._longest_head = HEAD_ROOM + max(map(len, self._schemas.names), default=0)
        self._state = _State.REASONING if thinking else _State.CONTENT
        self._interrupted = self._state
        self._pending = ""
        self._stops = StopMatcher(stop)
        self._arguments = ArgumentWriter(self._schemas, "")
        self._reader = ToolCallReader(self._arguments)
        self._calls = 0
        self._fresh = True
        self._answered = False
        self._spoken: set[_State] = set()
        self._tail = ""
        self._newlines = ""
        self._separator = ""
        self._events: list[OutputEvent] = []

    @property
    def in_content(self) -> bool:
        """Whether the next text is content, unless it is a tag."""
        return self._state is _State.CONTENT

    def feed(self, text: str) -> list[OutputEvent]:
        """What the next piece of text makes certain. After a StopHit all text is ignored."""
        self._pending += text
        at = 0
        while (after := self._step(at)) is not None:
            at = after
        self._pending = "" if self._state is _State.STOPPED else self._pending[at:]
        self._emit_arguments()
        return self._taken()

    def finish(self) -> list[OutputEvent]:
        """The text held back so far, when nothing more will come. Of a call that was cut off, what
        could be its end is not reported, and nothing is added: the rest would be invented."""
        if self._state in (_State.REASONING, _State.CONTENT):
            self._text(self._pending)
        elif self._state is _State.CALL:
            self._reader.finish(self._pending)
            if self._reader.complete:
                self._end_call()
            else:
                self._events.append(ToolCallCut(self._calls))
        if self._state is _State.CONTENT:
            self._emit(ContentText, self._stops.flush())
            self._emit_newlines()
        self._state = _State.STOPPED
        self._pending = ""
        return self._taken()

    def _taken(self) -> list[OutputEvent]:
        events, self._events = self._events, []
        return events

    # -- one element at a time: each returns the position after it, None to wait for more text

    def _step(self, at: int) -> int | None:
        match self._state:
            case _State.REASONING | _State.CONTENT:
                return self._text_step(at)
            case _State.CALL_HEAD:
                return self._head_step(at)
            case _State.CALL:
                return self._call_step(at)
            case _State.STOPPED:
                return None

    @property
    def _is_data(self) -> bool:
        """Whether what follows is a structured answer, where only its beginning may be a call."""
        if not self._structured or self._state is not _State.CONTENT:
            return False
        return self._answered or not self._schemas.names

    def _text_step(self, at: int) -> int | None:
        if self._is_data and at < len(self._pending):
            self._text(self._pending[at:])
            return len(self._pending)
        found = self._patterns[self._state].search(self._pending, at)
        end = found.start() if found else len(self._pending) - self._undecided(at)
        if end > at:
            self._text(self._pending[at:end])
            return end
        if found is None:
            return None
        self._tag(found.group())
        return found.end()

    def _undecided(self, at: int) -> int:
        """Length of the end of the pending text that may become a tag."""
        last = self._pending.rfind("<", at)
        tail = self._pending[last:] if last >= 0 else ""
        return len(tail) if self._begins_tag(tail) else 0

    def _begins_tag(self, text: str) -> bool:
        return any(tag.startswith(text) for tag in self._tags[self._state])

    def _tag(self, tag: str) -> None:
        if tag == _CALL and self._schemas.names:
            self._interrupted, self._state = self._state, _State.CALL_HEAD
        elif tag.startswith(_FUNCTION):
            self._open_call(tag[len(_FUNCTION) : -1])
        elif tag == _THINK_END and self._state is _State.REASONING:
            self._turn_to(_State.CONTENT)
        elif tag == _THINK and self._state is _State.CONTENT and not self._answered:
            self._turn_to(_State.REASONING)
        else:
            self._drop_tag()

    def _head_step(self, at: int) -> int | None:
        """`<tool_call>` is a call only if a tool's head follows; else text goes on without it."""
        head = self._pending[at : at + self._longest_head]
        found = _FUNCTION_HEAD.match(head)
        if found and found[1] in self._schemas.names:
            self._state = self._interrupted
            self._open_call(found[1])
            return at + found.end()
        if not found and len(head) < self._longest_head and _begins_function(head):
            return None
        self._state = self._interrupted
        self._drop_tag()
        return at

    def _call_step(self, at: int) -> int | None:
        after = self._reader.step(self._pending, at)
        if self._reader.complete:
            self._end_call()
        return after

    # -- what the elements do

    def _open_call(self, name: str) -> None:
        self._turn_to(_State.CALL)
        self._arguments = ArgumentWriter(self._schemas, name)
        self._reader = ToolCallReader(self._arguments)
        self._events.append(ToolCallStart(self._calls, name))

    def _end_call(self) -> None:
        self._arguments.close()
        self._emit_arguments()
        self._calls += 1
        self._state = _State.CONTENT

    def _emit_arguments(self) -> None:
        if text := self._arguments.taken():
            self._events.append(ToolCallArguments(self._calls, text))

    def _turn_to(self, state: _State) -> None:
        """Ends the thinking or the content so far, without the newlines that close it."""
        if self._state is _State.CONTENT:
            self._emit(ContentText, self._stops.flush())
        self._newlines = self._tail = ""
        self._fresh = True
        self._state = state

    def _drop_tag(self) -> None:
        """Leaves a tag out, with a space for it where its neighbours could join to another tag."""
        last = self._tail.rfind("<")
        if last >= 0 and self._begins_tag(self._tail[last:]):
            self._text(" ")

    def _text(self, text: str) -> None:
        self._tail = (self._tail + text)[-self._longest :]
        if self._fresh:
            resumed = self._state in self._spoken
            text = text.lstrip() if resumed else text.lstrip("\n")
            self._separator = "\n\n" if resumed else ""
        if not text:
            return
        self._fresh = False
        if self._state is _State.REASONING:
            self._emit(ReasoningText, text)
            return
        self._answered = self._answered or not text.isspace()
        certain, stop = self._stops.feed(text)
        self._emit(ContentText, certain)
        if stop is not None:
            self._emit_newlines()
            self._events.append(StopHit(stop))
            self._state = _State.STOPPED

    def _emit(self, kind: type[ReasoningText] | type[ContentText], text: str) -> None:
        """Reports text, holding back the newlines at its end until it is known to go on."""
        if not text:
            return
        body = text.rstrip("\n")
        if body:
            self._events.append(kind(self._separator + self._newlines + body))
            self._spoken.add(self._state)
            self._separator = self._newlines = ""
        self._newlines += text[len(body) :]

    def _emit_newlines(self) -> None:
        if self._newlines:
            self._events.append(ContentText(self._newlines))
            self._newlines = ""


def _begins_function(text: str) -> bool:
    """Whether more text could make `text` the opening of a function."""
    text = text.lstrip()
    name = text.removeprefix(_FUNCTION)
    return _FUNCTION.startswith(text) or (name != text and not re.search(r"[<>\n]", name))
