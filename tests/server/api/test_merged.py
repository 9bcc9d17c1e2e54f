"""Several requests as one source: nothing lost, in order, a few at a time, all ended together."""

import asyncio
import contextlib
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api.merged import Merged, Numbered
from server.engine.errors import QueueFull, StepFailed
from server.engine.events import ContentDelta, Failed, Started


class Source:
    """Yields events; an exception among them is raised, None is a wait without an end."""

    def __init__(self, items, running):
        self._items = items
        self._running = running
        self.cancelled = False
        running.append(self)

    async def __aiter__(self):
        for item in self._items:
            await asyncio.sleep(0)
            if item is None:
                await asyncio.Event().wait()
            if isinstance(item, Exception):
                raise item
            yield item
        if self in self._running:
            self._running.remove(self)

    def cancel(self):
        self.cancelled = True


def merged(scripts, at_once):
    running: list[Source] = []
    sources: list[Source] = []
    most = [0]

    async def submit(number) -> Any:
        if isinstance(scripts[number], Exception):
            raise scripts[number]
        sources.append(Source(scripts[number], running))
        most[0] = max(most[0], len(running))
        return sources[-1]

    return Merged(submit, len(scripts), at_once), sources, most


async def read(work):
    await work.start()
    return [item async for item in work]


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.text(max_size=2), max_size=90), min_size=1, max_size=5), st.integers(1, 4)
)
def test_every_event_of_every_request_in_its_order(texts, at_once):
    scripts = [[ContentDelta(0, text) for text in request] for request in texts]
    work, sources, most = merged(scripts, at_once)
    items = asyncio.run(read(work))
    for number, script in enumerate(scripts):
        assert [item.event for item in items if item.number == number] == script
    assert len(sources) == len(scripts)
    assert most[0] <= at_once


@pytest.mark.parametrize("failure", [Failed(StepFailed("x")), QueueFull(1)])
def test_the_first_failure_is_the_last_event(failure):
    scripts = [[Started(1, 0), None], [Started(1, 0), failure], [None]]
    if isinstance(failure, QueueFull):
        scripts = [[Started(1, 0)], failure, [None]]
    work, sources, _ = merged(scripts, 1 if isinstance(failure, QueueFull) else 3)
    items = asyncio.run(read(work))
    assert isinstance(items[-1], Failed)
    assert all(isinstance(item, Numbered) for item in items[:-1])
    assert all(source.cancelled for source in sources)


def test_a_crash_of_a_source_is_raised():
    work, sources, _ = merged([[None], [RuntimeError("x")]], 2)
    with pytest.raises(RuntimeError, match="x"):
        asyncio.run(read(work))
    assert all(source.cancelled for source in sources)


def test_a_refusal_at_the_start_is_raised():
    work, sources, _ = merged([[None], [None], QueueFull(1)], 3)
    with pytest.raises(QueueFull):
        asyncio.run(read(work))
    assert [source.cancelled for source in sources] == [True, True]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_all(served, stream):
    served.engine.script = [60]
    body = {"prompt": ["a", "b", "c"], "stream": stream}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        served.http.stream("POST", "/v1/completions", json=body, timeout=0.5) as reply,
    ):
        next(reply.iter_bytes())
    assert len(served.engine.streams) == 3
    assert all(source.cancelled.wait(2) for source in served.engine.streams)
