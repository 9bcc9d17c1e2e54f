"""The engine's events -> a response, whole and as stream events.

Knows the order of a response's life: created, in progress, its items, and one end. Knows no HTTP
and no engine. A whole response is the last event of its own stream.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from server.api import sse
from server.api.responses_items import Form, Json
from server.api.responses_output import Output
from server.api.responses_resource import Resource
from server.engine.errors import EngineError
from server.engine.events import CacheReport, Event, Finished, Started

# There is no event for a cancelled response; its `status` says so.
_ENDS = {"incomplete": "incomplete", "cancelled": "incomplete"}


class Lifecycle:
    """Makes the events of one response, from the first to the last. `final` is the response once it
    has ended, in whatever way."""

    def __init__(self, resource: Resource, form: Form) -> None:
        self.id = resource.id
        self.final: Json | None = None
        self.cache: CacheReport | None = None
        self._resource = resource
        self._output = Output(resource.id, form)
        self._begun = False
        self._held: list[Json] = []  # events of an end that came from elsewhere

    @property
    def begun(self) -> bool:
        """Whether its first event has been made: a client may know of it."""
        return self._begun

    def add(self, event: Event) -> Iterator[Json]:
        """The events that `event` becomes; none once it has ended."""
        if self.final is not None:
            return
        if isinstance(event, Started):
            self.cache = event.cache
        yield from self.opening()
        if not isinstance(event, Finished):
            yield from self._output.add(event)
            return
        short = event.reason == "length"
        yield from self._output.end(complete=not short)
        status = "incomplete" if short else "completed"
        self.final = self._resource.body(status, self._output.items(), event.usage, self.cache)

    def opening(self) -> Iterator[Json]:
        """The first events, once."""
        if not self._begun:
            self._begun = True
            yield {"type": "response.created", "response": self.now()}
            yield self.progress()

    def progress(self) -> Json:
        """Says that it goes on; as often as one likes."""
        return {"type": "response.in_progress", "response": self.now()}

    def now(self) -> Json:
        """The response as it is."""
        if self.final is not None:
            return self.final
        return self._resource.body("in_progress", self._output.items(), cache=self.cache)

    def cancel(self) -> None:
        """Ends it where it is."""
        if self.final is None:
            self._held = [*self.opening(), *self._output.end(complete=False)]
            self.final = self._resource.body("cancelled", self._output.items(), cache=self.cache)

    def fail(self, error: EngineError) -> None:
        """Ends it with an error."""
        if self.final is None:
            self._held = [*self.opening(), *self._output.end(complete=False)]
            items = self._output.items()
            self.final = self._resource.body("failed", items, cache=self.cache, error=error)

    def closing(self) -> Iterator[Json]:
        """The last events. Needs `final`."""
        held, self._held = self._held, []
        yield from held
        final = self.now()
        status = final["status"]
        yield {"type": f"response.{_ENDS.get(status, status)}", "response": final}


class Whole:
    """Gathers the events of an answer that is sent in one piece."""

    def __init__(self, life: Lifecycle) -> None:
        self._life = life

    def add(self, event: Event) -> None:
        for _ in self._life.add(event):
            continue

    @property
    def complete(self) -> bool:
        return self._life.final is not None

    @property
    def cache(self) -> CacheReport | None:
        """What the prompt cache did; None before the request started."""
        return self._life.cache

    def json(self) -> Json:
        """The response."""
        return self._life.now()


class Frames:
    """A streamed answer as frames, numbered from 0. Where there was none for `quiet_s` seconds, the
    next event of the engine becomes one that says so, whatever it is: clients that wait for an
    event do not count comments."""

    def __init__(self, life: Lifecycle, quiet_s: float) -> None:
        self._life = life
        self._quiet_s = quiet_s
        self._number = 0
        self._last = time.monotonic()

    def add(self, event: Event) -> list[bytes]:
        # All at once: what is made after it has to be numbered after it.
        frames = self._frames(self._life.add(event))
        quiet = time.monotonic() - self._last >= self._quiet_s
        if quiet and not frames and self._life.final is None:
            frames = self._frames([self._life.progress()])
        return frames

    @property
    def complete(self) -> bool:
        return self._life.final is not None

    def closing(self) -> list[bytes]:
        return self._frames(self._life.closing())

    def failed(self, error: EngineError) -> list[bytes]:
        self._life.fail(error)
        return self.closing()

    def _frames(self, events: Iterable[Json]) -> list[bytes]:
        frames = []
        for event in events:
            numbered = {"type": event["type"], "sequence_number": self._number, **event}
            self._number += 1
            frames.append(sse.named_frame(event["type"], numbered))
        if frames:
            self._last = time.monotonic()
        return frames
