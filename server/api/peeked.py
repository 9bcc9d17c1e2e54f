"""A look at a request's first event before its answer begins, without losing it.

Knows asyncio and that a source is read by one reader; nothing of what events mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from server.api.serving import EventSource
from server.engine.events import Event


class Peeked:
    """The events of `source`, all of them, of which the first can be seen in advance."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._events = aiter(source)
        self._first = asyncio.ensure_future(self._next())
        self._begun = False

    async def _next(self) -> Event | None:
        return await anext(self._events, None)

    async def first(self, wait_s: float) -> Event | None:
        """The first event if it comes within `wait_s` seconds, else None. Raises what the source
        raised by then."""
        await asyncio.wait({self._first}, timeout=wait_s)
        return self._first.result() if self._first.done() else None

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        if self._begun:
            return await anext(self._events)
        self._begun = True
        event = await self._first
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """Ends the work behind the source; idempotent, never waits."""
        self._source.cancel()
        self._first.cancel()
