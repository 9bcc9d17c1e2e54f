"""Server-sent events in OpenAI's framing, over sse-starlette.

Knows framing, keep-alives, and what happens when a reader leaves or stops reading; nothing of
what the events say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus, SendTimeoutError
from starlette.types import Receive, Scope, Send

log = logging.getLogger(__name__)

SEPARATOR = "\n"
DONE = b"data: [DONE]\n\n"

# Streams end when the engine ends them (it drains first), not 0.2 s after SIGTERM.
AppStatus.disable_automatic_graceful_drain()


def frame(value: Any) -> bytes:
    """`value` as one data frame."""
    return b"data: " + encoded(value) + b"\n\n"


def named_frame(name: str, value: Any) -> bytes:
    """`value` as one frame of event type `name`."""
    return b"event: " + name.encode() + b"\ndata: " + encoded(value) + b"\n\n"


def encoded(value: Any) -> bytes:
    """`value` as JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def comment_ping() -> ServerSentEvent:
    """A keep-alive that no client sees as an event."""
    return ServerSentEvent(comment="ping", sep=SEPARATOR)


def comment(text: str) -> bytes:
    """A comment that keeps a stream open; no client sees it as an event."""
    return b": " + text.encode() + b"\n\n"


class EventStream(EventSourceResponse):
    """A stream of frames, with a `ping` where none came for `ping_s` seconds. `on_close` runs
    however it ends, even when it never began."""

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        *,
        ping: Callable[[], ServerSentEvent],
        ping_s: float,
        send_timeout_s: float,
        on_close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            frames,
            headers=headers,
            ping=ping_s,
            sep=SEPARATOR,
            ping_message_factory=ping,
            send_timeout=send_timeout_s,
        )
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            log.warning("a reader stopped reading for %g s; its stream was cut", self.send_timeout)
        finally:
            self._on_close()
