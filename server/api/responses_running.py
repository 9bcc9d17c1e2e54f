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


@dataclass(frozen=True, slots=True)
class Silence(PrefillProgress):
    """Nothing happened for a while."""


class Running:
    """The events of `source`, as a source itself. Before it ends, the response is given to `keep`;
    a client that has seen the end finds it there. `quiet_s`: how long it may be silent at most
    before a Silence comes; None for ever. `on_end` is called once, however it ends."""

    def __init__(
        self,
        source: EventSource,
        life: Lifecycle,
        tenant: str,
        *,
        keep: Callable[[Json], Awaitable[None]] | None,
        quiet_s: float | None,
        on_end: Callable[[], None],
    ) -> None:
        self.life = life
        self.tenant = tenant
        self._source = source
        self._keep = keep
        self._look_s = None if quiet_s is None else quiet_s / _LOOKS
        self._on_end: Callable[[], None] | None = on_end

    def stop(self) -> None:
        """Ends the response where it is, as cancelled."""
        self.life.cancel()
        self._source.cancel()

    def cancel(self) -> None:
        """Ends the work behind it; idempotent, never waits."""
        self._source.cancel()
        if self._on_end is not None:
            self._on_end()
            self._on_end = None

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._with_silences():
            if isinstance(event, Failed) and self.life.begun:
                self.life.fail(event.error)
                await self._kept()
            yield event
        await self._kept()

    async def _kept(self) -> None:
        if self._keep is not None and self.life.final is not None:
            await self._keep(self.life.final)

    async def _with_silences(self) -> AsyncIterator[Event]:
        events = aiter(self._source)
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait({coming}, timeout=self._look_s))[0]:
                    yield Silence(0, 0)
                event = coming.result()
            finally:
                coming.cancel()
            if event is None:
                return
            yield event
