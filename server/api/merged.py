"""Several requests of the engine as one source of events, for one HTTP request.

Knows asyncio and when requests are submitted, cancelled and done; nothing of their shapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.api.serving import EventSource
from server.engine.errors import EngineError
from server.engine.events import Event, Failed

Submit = Callable[[int], Awaitable[EventSource]]
_UNREAD = 64  # events that wait here; more stay with the engine, which joins them


@dataclass(frozen=True, slots=True)
class Numbered:
    """An event of request `number`."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class _Ended:
    number: int
    error: Exception | None


class Merged:
    """`count` requests, at most `at_once` of them submitted at a time, the others as these end.
    Yields Numbered events; the first failure is a bare Failed, and ends all of them."""

    def __init__(self, submit: Submit, count: int, at_once: int) -> None:
        self._submit = submit
        self._left = iter(range(count))
        self._running = 0
        self._at_once = at_once
        self._sources: list[EventSource] = []
        self._readers: list[asyncio.Task[None]] = []
        self._items: asyncio.Queue[Any] = asyncio.Queue(_UNREAD)

    async def start(self) -> None:
        """Submits the first ones. Raises what a submission raised, with all of them cancelled."""
        try:
            while self._running < self._at_once and await self._start_next():
                continue
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Ends all of them; idempotent, never waits."""
        for source in self._sources:
            source.cancel()
        for reader in self._readers:
            reader.cancel()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while self._running:
                item = await self._items.get()
                if not isinstance(item, _Ended):
                    yield item
                    if isinstance(item, Failed):
                        return
                    continue
                self._running -= 1
                if item.error is not None:
                    raise item.error
                await self._start_next()
        except EngineError as error:
            yield Failed(error)
        finally:
            self.cancel()

    async def _start_next(self) -> bool:
        number = next(self._left, None)
        if number is None:
            return False
        source = await self._submit(number)
        self._sources.append(source)
        self._readers.append(asyncio.create_task(self._read(number, source)))
        self._running += 1
        return True

    async def _read(self, number: int, source: EventSource) -> None:
        error: Exception | None = None
        try:
            async for event in source:
                item = event if isinstance(event, Failed) else Numbered(number, event)
                await self._items.put(item)
        except Exception as raised:
            error = raised
        await self._items.put(_Ended(number, error))
