"""The engine's events -> the output items of a response, one after the other.

Knows when an item begins and ends; the items know their shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.api.responses_ids import item_id
from server.api.responses_items import CallItem, Form, Json, MessageItem, ReasoningItem, Status
from server.engine.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)

_Item = ReasoningItem | MessageItem | CallItem


class Output:
    """The items of response `response_id`. A text begins with its first piece that is not blank:
    blank text alone, as between two calls, is no item, but stays part of the text that follows."""

    def __init__(self, response_id: str, form: Form) -> None:
        self._response_id = response_id
        self._form = form
        self._ended: list[Json] = []
        self._open: _Item | None = None
        self._call: int | None = None  # the engine's number of the call that is open
        self._thought = ""  # blank so far
        self._text = ""
        self._logprobs: list[TokenLogprob] = []
        self._answered = False  # there is a message or a call

    def items(self) -> list[Json]:
        """All items as they are now."""
        if self._open is None:
            return list(self._ended)
        return [*self._ended, self._open.json("in_progress")]

    def add(self, event: Event) -> Iterator[Json]:
        """The events that `event` becomes."""
        if isinstance(event, ReasoningDelta):
            yield from self._reasoning(event.text)
        elif isinstance(event, ContentDelta):
            yield from self._content(event)
        elif isinstance(event, ToolCallDelta):
            yield from self._arguments(event)

    def end(self, *, complete: bool) -> Iterator[Json]:
        """Ends what is open; not `complete`: before its time. A complete answer has a message or a
        call, if only an empty message."""
        if complete and not self._answered:
            yield from self._message()
        yield from self._close("completed" if complete else "incomplete")

    def _reasoning(self, text: str) -> Iterator[Json]:
        item = self._open
        if not isinstance(item, ReasoningItem):
            self._thought += text
            if not self._thought.strip():
                return
            text, self._thought = self._thought, ""
            yield from self._close()
            item = ReasoningItem(*self._place("reasoning"), self._form)
            self._open = item
            yield from item.opening()
        if text:
            yield from item.add(text)

    def _content(self, event: ContentDelta) -> Iterator[Json]:
        if isinstance(self._open, MessageItem):
            yield from self._open.add(event.text, event.logprobs)
            return
        self._text += event.text
        self._logprobs += event.logprobs
        if self._text.strip():
            yield from self._message()

    def _message(self) -> Iterator[Json]:
        """Begins a message with the text held so far."""
        yield from self._close()
        item = MessageItem(*self._place("message"), self._form)
        self._open, self._answered = item, True
        yield from item.opening()
        yield from item.add(self._text, self._logprobs)
        self._text, self._logprobs = "", []

    def _arguments(self, event: ToolCallDelta) -> Iterator[Json]:
        item = self._open
        if not isinstance(item, CallItem) or self._call != event.index:
            yield from self._close()
            place = self._place("function_call")
            item = CallItem(*place, self._form, event.id or place[0], event.name or "")
            self._open, self._call, self._answered = item, event.index, True
            yield from item.opening()
        yield from item.add(event.arguments)

    def _place(self, kind: str) -> tuple[str, int]:
        index = len(self._ended)
        return item_id(self._response_id, kind, index), index

    def _close(self, status: Status = "completed") -> Iterator[Json]:
        if self._open is None:
            return
        *events, done = self._open.closing(status)
        self._open = None
        self._ended.append(done["item"])
        yield from events
        yield done
