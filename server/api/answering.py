"""How every dialect answers: in one piece or as a stream, and what a client that leaves means.

Knows HTTP, disconnects and the engine's event source; the shapes are the dialect's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.api import sse
from server.api.cache_wire import cache_headers
from server.api.errors import CLIENT_CLOSED_REQUEST
from server.api.peeked import Peeked
from server.api.serving import EventSource
from server.engine.errors import EngineError, StepFailed
from server.engine.events import CacheReport, Event, Failed, ModelLoading, Started
from server.settings import Settings

log = logging.getLogger(__name__)

HEADERS_WAIT_S = 0.25  # how long a stream's headers wait for the request to start


class WholeAnswer(Protocol):
    """Gathers a request's events into one body. `json` is asked for once `complete`."""

    def add(self, event: Event) -> None: ...
    @property
    def complete(self) -> bool: ...
    @property
    def cache(self) -> CacheReport | None: ...
    def json(self) -> dict[str, Any]: ...


class StreamedAnswer(Protocol):
    """Makes a request's events into frames. After the last event come the `closing` ones, or,
    where it failed, those of `failed`, at whatever point that is."""

    def add(self, event: Event) -> Iterable[bytes]: ...
    @property
    def complete(self) -> bool: ...
    def closing(self) -> Iterable[bytes]: ...
    def failed(self, error: EngineError) -> Iterable[bytes]: ...


async def whole(request: Request, source: EventSource, answer: WholeAnswer) -> Response:
    """Gathers the answer, unless the client leaves first. Raises EngineError."""
    gathering = asyncio.create_task(_gather(source, answer))
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({gathering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not gathering.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        gathering.result()
        return JSONResponse(answer.json(), headers=cache_headers(answer.cache))
    finally:
        source.cancel()
        gathering.cancel()
        leaving.cancel()


async def _gather(source: EventSource, answer: WholeAnswer) -> None:
    async for event in source:
        if isinstance(event, Failed):
            raise event.error
        answer.add(event)
    if not answer.complete:
        raise _early_end()


async def _left(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        continue


async def streamed(
    source: EventSource,
    answer: StreamedAnswer,
    settings: Settings,
    ping: Callable[[], ServerSentEvent] = sse.comment_ping,
) -> Response:
    """A stream of frames, with a `ping` in every silence. Its headers wait a moment for the request
    to start, so that they can tell what the cache did, and so that an error by then has a status
    of its own (raised as EngineError)."""
    events = Peeked(source)
    try:
        first = await events.first(HEADERS_WAIT_S)
        if isinstance(first, Failed):
            raise first.error
    except BaseException:
        events.close()
        raise
    return sse.EventStream(
        _frames(events, answer),
        ping=ping,
        ping_s=settings.ping_interval,
        send_timeout_s=settings.send_timeout,
        on_close=events.close,
        headers=cache_headers(first.cache if isinstance(first, Started) else None),
    )


async def _frames(source: AsyncIterable[Event], answer: StreamedAnswer) -> AsyncIterator[bytes]:
    """The answer's frames. A failure has last frames of its own, never a bare cut."""
    try:
        async for event in source:
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, ModelLoading):
                yield sse.comment(f"loading the model: {event.done} of {event.total} bytes")
                continue
            for frame in answer.add(event):
                yield frame
        if not answer.complete:
            raise _early_end()
        for frame in answer.closing():
            yield frame
    except EngineError as error:
        for frame in answer.failed(error):
            yield frame
    except Exception:
        log.exception("a stream failed")
        for frame in answer.failed(EngineError("The server failed on this request.")):
            yield frame


def _early_end() -> StepFailed:
    return StepFailed("The engine ended this request early.")
