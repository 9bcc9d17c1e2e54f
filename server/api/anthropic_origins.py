"""A request's events, with the cache's report in terms of the client's own messages.

Knows that one message of a client can be several of the engine's; nothing of either's shape.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from server.api.serving import EventSource
from server.engine.events import CacheReport, Event, Started


class WithOrigins:
    """`source`, where message i of the engine was message `origins[i]` of the client; None where
    it was none of its messages."""

    def __init__(self, source: EventSource, origins: Sequence[int | None]) -> None:
        self._source = source
        self._origins = origins

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for event in self._source:
            if isinstance(event, Started) and event.cache is not None:
                event = replace(event, cache=self._renumbered(event.cache))
            yield event

    def cancel(self) -> None:
        self._source.cancel()

    def _renumbered(self, report: CacheReport) -> CacheReport:
        message = report.message
        if message is None or message >= len(self._origins):
            return report
        return replace(report, message=self._origins[message])
