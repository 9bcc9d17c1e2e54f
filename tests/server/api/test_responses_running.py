"""A response's events on their way: all, in order, with silences; stopped, kept and released."""

import asyncio

import pytest

from model.sampling import SamplingParams
from server.api.responses_items import Form
from server.api.responses_resource import Resource
from server.api.responses_running import Running, Silence
from server.api.responses_schema import parse_responses
from server.api.responses_wire import Lifecycle
from server.engine.errors import StepFailed
from server.engine.events import ContentDelta, Failed, Started
from server.engine.request import ToolChoice
from tests.server.api.response_events import finished

DELTAS = [Started(1, 0), *[ContentDelta(0, str(number)) for number in range(40)], finished()]


class Source:
    """Plays events; floats are seconds of silence, exceptions are raised."""

    def __init__(self, script):
        self.script = script
        self.cancelled = 0

    async def __aiter__(self):
        for item in self.script:
            if isinstance(item, float):
                await asyncio.sleep(item)
            elif isinstance(item, Exception):
                raise item
            else:
                yield item

    def cancel(self):
        self.cancelled += 1


class Case:
    """A running response, and what became of it."""

    def __init__(self, script, quiet_s=1000.0):
        asked = parse_responses({"input": "Hi"})
        resource = Resource("resp_1", "m", asked, SamplingParams(), ToolChoice(), stored=True)
        self.source = Source(script)
        self.life = Lifecycle(resource, Form())
        self.kept, self.ends = [], 0
        self.running = Running(
            self.source, self.life, "t", [], keep=self.keep, quiet_s=quiet_s, on_end=self.end
        )

    async def keep(self, response):
        self.kept.append(response["status"])

    def end(self):
        self.ends += 1

    async def read(self, stop_at=None, pause_s=0.0):
        """The events, each told to the response; all tasks are done when they end."""
        seen = []
        async for event in self.running:
            seen.append(event)
            list(self.life.add(event))
            await asyncio.sleep(pause_s)
            if len(seen) == stop_at:
                self.running.stop()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        return seen


@pytest.mark.parametrize("quiet_s", [None, 1000.0])
@pytest.mark.parametrize("pause_s", [0.0, 0.001])
def test_all_events_in_order_then_it_is_kept(quiet_s, pause_s):
    case = Case(DELTAS, quiet_s)
    assert asyncio.run(case.read(pause_s=pause_s)) == DELTAS
    assert case.kept == ["completed"]


def test_silences_are_told_and_nothing_is_lost():
    case = Case([0.2, *DELTAS[:3], 0.2, *DELTAS[3:]], quiet_s=0.1)
    seen = asyncio.run(case.read())
    assert [event for event in seen if not isinstance(event, Silence)] == DELTAS
    assert isinstance(seen[0], Silence)
    begun = seen.index(DELTAS[2])
    assert any(isinstance(event, Silence) for event in seen[begun : seen.index(DELTAS[3])])


@pytest.mark.parametrize("quiet_s", [None, 1000.0])
def test_what_the_source_raises_comes_after_its_events(quiet_s):
    case = Case([*DELTAS[:-1], StepFailed("broken")], quiet_s)

    seen = []

    async def read():
        async for event in case.running:
            seen.append(event)

    with pytest.raises(StepFailed):
        asyncio.run(read())
    assert seen == DELTAS[:-1]
    assert case.kept == []


@pytest.mark.parametrize("quiet_s", [None, 1000.0])
def test_a_failure_is_kept_where_a_client_knows_of_the_response(quiet_s):
    case = Case([*DELTAS[:3], Failed(StepFailed("broken"))], quiet_s)
    assert len(asyncio.run(case.read())) == 4
    assert case.kept == ([] if quiet_s is None else ["failed"])


@pytest.mark.parametrize("pause_s", [0.0, 0.001])
def test_stop_ends_it_at_once_and_keeps_it(pause_s):
    case = Case([*DELTAS[:-1], 60.0, DELTAS[-1]])
    assert asyncio.run(case.read(stop_at=3, pause_s=pause_s)) == DELTAS[:3]
    assert (case.kept, case.source.cancelled) == (["cancelled"], 1)


def test_stop_ends_a_reader_that_waits():
    case = Case([*DELTAS[:3], 60.0])

    async def use():
        asyncio.get_running_loop().call_later(0.05, lambda: case.running.stop(forget=True))
        async with asyncio.timeout(10):
            return await case.read()

    assert asyncio.run(use()) == DELTAS[:3]
    assert (case.life.now()["status"], case.kept) == ("cancelled", [])


def test_it_is_released_once():
    case = Case(DELTAS)
    for _ in range(2):
        case.running.cancel()
    assert (case.ends, case.source.cancelled) == (1, 2)
