"""Where the worker leaves a request's events and the event loop picks them up.

The worker never waits: events that nobody has read yet are merged, so what is held is bounded by
the text itself, however slowly it is read. Knows neither the request nor the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from server.engine.errors import EngineError
from server.engine.events import (
    ContentDelta,
    Event,
    Failed,
    PrefillProgress,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)


class _Pending:
    """An event waiting to be read, with the pieces of text merged into it since, the log
    probabilities that came with them, and the last one's count of tokens."""

    __slots__ = ("event", "logprobs", "pieces", "tokens")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.pieces: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self.tokens = 0

    def add(self, piece: str, event: Event) -> None:
        self.pieces.append(piece)
        self.tokens = getattr(event, "tokens", 0)
        if isinstance(event, ContentDelta):
            self.logprobs += event.logprobs

    def merged(self) -> Event:
        event = self.event
        if not self.pieces:
            return event
        rest = "".join(self.pieces)
        if isinstance(event, ReasoningDelta):
            return ReasoningDelta(event.choice, event.text + rest, self.tokens)
        if isinstance(event, ContentDelta):
            logprobs = (*event.logprobs, *self.logprobs)
            return ContentDelta(event.choice, event.text + rest, logprobs, self.tokens)
        if isinstance(event, ToolCallDelta):
            arguments = event.arguments + rest
            return ToolCallDelta(
                event.choice, event.index, event.id, event.name, arguments, self.tokens
            )
        raise AssertionError(event)


class Mailbox:
    """A thread-safe, merging queue of events with one reader.

    `notify` is called (from the writer's thread) when events arrive at an empty box, or when the
    box closes; it must not block.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        # Re-entrant: a collected stream cancels, and collection may start inside this class.
        self._lock = threading.RLock()
        self._pending: list[_Pending] = []
        self._last: dict[int, _Pending] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """No event will be added; what is held can still be taken."""
        return self._closed

    def put(self, event: Event) -> None:
        """Adds an event; ignored once closed."""
        with self._lock:
            if self._closed:
                return
            was_empty = not self._pending
            self._add(event)
        if was_empty:
            self._notify()

    def close(self, error: EngineError | None = None) -> None:
        """Ends the stream, with a last Failed when there is an `error`. The first close counts."""
        with self._lock:
            if self._closed:
                return
            if error is not None:
                self._pending.append(_Pending(Failed(error)))
            self._closed = True
        self._notify()

    def take(self) -> list[Event]:
        """Everything unread, oldest first; empties the box."""
        with self._lock:
            pending, self._pending = self._pending, []
            self._last.clear()
        return [item.merged() for item in pending]

    def _add(self, event: Event) -> None:
        if isinstance(event, PrefillProgress):
            if self._pending and isinstance(self._pending[-1].event, PrefillProgress):
                self._pending[-1].event = event
            else:
                self._pending.append(_Pending(event))
            return
        # Choices are independent of each other, so a delta may join the last one of its choice
        # over events of other choices.
        choice = getattr(event, "choice", -1)
        last = self._last.get(choice)
        piece = None if last is None else _continuation(last.event, event)
        if last is not None and piece is not None:
            last.add(piece, event)
            return
        self._last[choice] = item = _Pending(event)
        self._pending.append(item)


def _continuation(before: Event, event: Event) -> str | None:
    """The text by which `event` continues `before`, or None when it is something new."""
    if isinstance(event, ReasoningDelta) and isinstance(before, ReasoningDelta):
        return event.text
    if isinstance(event, ContentDelta) and isinstance(before, ContentDelta):
        return event.text
    if (
        isinstance(event, ToolCallDelta)
        and isinstance(before, ToolCallDelta)
        and event.index == before.index
        and event.id is None
        and event.name is None
    ):
        return event.arguments
    return None
