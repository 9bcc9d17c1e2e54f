"""A response that is being written: where its events come from, how it is stopped and kept.

Knows the engine's source of events and time; not the shape of anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from server.api.responses_items import Json
from server.api.responses_wire import Lifecycle
from server.api.serving import EventSource
from server.engine.events import Event, Failed, PrefillProgress

_LOOKS = 4  # how often a silence is looked at within the time that it may last
_UNREAD = 16  # events that wait here; more stay with the engine, which joins them

Keep = Callable[[Json], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Silence(PrefillProgress):
    """Nothing happened for a while."""


class Running:
    """The events of `source`, as a source itself. Before it ends, the response is given to `keep`;
    a client that has seen the end finds it there. `quiet_s`: how long a stream may be silent at
    most before a Silence comes; None for an answer in one piece. `on_end` is called once, however
    it ends. `items`: what the response answers."""

    def __init__(
        self,
        source: EventSource,
        life: Lifecycle,
        tenant: str,
        items: list[Json],
        *,
        keep: Keep | None,
        quiet_s: float | None,
        on_end: Callable[[], None],
    ) -> None:
        self.life = life
        self.tenant = tenant
        self.items = items
        self._source = source
        self._keep = keep
        self._quiet_s = quiet_s
        self._on_end: Callable[[], None] | None = on_end
        self._coming: asyncio.Queue[Event | Exception | None] = asyncio.Queue(_UNREAD)
        self._stopped = False

    def stop(self, *, forget: bool = False) -> None:
        """Ends the response where it is, as cancelled; with `forget` it is not kept."""
        if forget:
            self._keep = None
        self.life.cancel()
        self._stopped = True
        self._source.cancel()
        if not self._coming.full():  # else its reader is awake
            self._coming.put_nowait(None)

    def cancel(self) -> None:
        """Ends the work behind it; idempotent, never waits."""
        self._source.cancel()
        if self._on_end is not None:
            self._on_end()
            self._on_end = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._source if self._quiet_s is None else self._with_silences():
            if isinstance(event, Failed) and self.life.begun and self._quiet_s is not None:
                # A client that waits for the whole answer gets an error in its place, and no id.
                self.life.fail(event.error)
                await self._kept()
            yield event
        await self._kept()

    async def _kept(self) -> None:
        if self._keep is not None and self.life.final is not None:
            keep, self._keep = self._keep, None
            await keep(self.life.final)

    async def _with_silences(self) -> AsyncIterator[Event]:
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._look())]
        try:
            while not self._stopped and (item := await self._coming.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self) -> None:
        last: Exception | None = None
        try:
            async for event in self._source:
                await self._coming.put(event)
        except Exception as error:
            last = error
        await self._coming.put(last)

    async def _look(self) -> None:
        assert self._quiet_s is not None  # noqa: S101 - a stream has it
        while True:
            await asyncio.sleep(self._quiet_s / _LOOKS)
            if self._coming.empty():
                self._coming.put_nowait(Silence(0, 0))
