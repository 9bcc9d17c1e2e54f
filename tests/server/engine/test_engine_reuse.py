"""What later requests find: after idle time, after a restart, and nothing of another tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from model.sampling import SamplingParams
from server.engine import Engine, EngineSettings, GenerationRequest, Thinking
from server.engine.events import CacheReport, ContentDelta, Event, Finished, Started

GREEDY = SamplingParams(temperature=0.0)


class Chat:
    """A conversation as a client keeps it: contents only, no thoughts."""

    def __init__(self, **fields: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.fields: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 200, **fields}
        self.total = 0

    async def say(self, engine: Engine, text: str) -> tuple[str, Finished, CacheReport]:
        self.messages.append({"role": "user", "content": text})
        stream = await engine.submit(GenerationRequest(list(self.messages), **self.fields))
        events: list[Event] = [event async for event in stream]
        content = "".join(e.text for e in events if isinstance(e, ContentDelta))
        self.messages.append({"role": "assistant", "content": content})
        (finished,) = [e for e in events if isinstance(e, Finished)]
        (started,) = [e for e in events if isinstance(e, Started)]
        assert started.cache is not None
        assert started.cache.reused == finished.usage.cached_tokens
        self.total = finished.usage.prompt_tokens + finished.usage.completion_tokens
        return content, finished, started.cache


def run(test: Callable[[Engine], Awaitable[None]], **settings: Any) -> None:
    async def check() -> None:
        engine = Engine(EngineSettings(**settings))
        await engine.start()
        try:
            await test(engine)
        finally:
            await engine.stop(5)

    asyncio.run(check())


async def idle(engine: Engine) -> None:
    """Until the worker has nothing left to do: the cache's figures have stopped changing."""
    before, same = -1, 0
    while same < 10:
        await asyncio.sleep(0.03)
        now = engine.health().cache_entries
        before, same = now, same + 1 if now == before else 0


@pytest.mark.parametrize("thinking", [Thinking(), Thinking(False)])
def test_where_thoughts_are_dropped_the_next_turn_is_prepared_in_idle_time(
    thinking: Thinking,
) -> None:
    """And so it is where the template drops the empty block of no thought."""

    async def check(engine: Engine) -> None:
        chat = Chat(thinking=thinking, preserve_thinking=False)
        await chat.say(engine, "My name is Anna. What is 17 + 25?")
        for text in ("What is the capital of France?", "And Italy?"):
            await idle(engine)
            _, finished, report = await chat.say(engine, text)
            new = finished.usage.prompt_tokens - finished.usage.cached_tokens
            assert new <= 24, "the new message and the opening of the answer"
            assert report.change is None or report.change == "user message"

    run(check)


@pytest.mark.parametrize("thinking", [Thinking(), Thinking(False)])
def test_a_conversation_goes_on_after_a_restart(tmp_path: Path, thinking: Thinking) -> None:
    chat = Chat(thinking=thinking)

    async def begin(engine: Engine) -> None:
        await chat.say(engine, "My name is Anna.")
        await chat.say(engine, "What is the capital of France?")

    async def go_on(engine: Engine) -> None:
        before = chat.total
        content, finished, _ = await chat.say(engine, "What is my name?")
        assert finished.usage.cached_tokens == before
        assert "Anna" in content

    run(begin, disk_cache=tmp_path)
    run(go_on, disk_cache=tmp_path)


def test_tenants_share_nothing() -> None:
    async def check(engine: Engine) -> None:
        mine = Chat(thinking=Thinking(), tenant="a")
        await mine.say(engine, "My code word is amber.")
        theirs = Chat(thinking=Thinking(), tenant="b")
        theirs.messages = list(mine.messages)
        _, finished, report = await theirs.say(engine, "What is my code word?")
        assert finished.usage.cached_tokens == 0
        assert report == CacheReport(0, finished.usage.prompt_tokens, 0)

    run(check)


def test_an_edit_is_told_and_costs_only_what_follows() -> None:
    async def check(engine: Engine) -> None:
        chat = Chat(thinking=Thinking(False))
        await chat.say(engine, "My name is Anna.")
        await chat.say(engine, "Count from 3 to 9.")
        chat.messages = chat.messages[:2]
        _, finished, report = await chat.say(engine, "Count from 4 to 8.")
        assert (report.message, report.change) == (2, "user message")
        assert finished.usage.prompt_tokens - finished.usage.cached_tokens <= 24

    run(check)


SAID = [
    "What is 17 + 25?",
    "Say amber three times.",
    "What is the capital of Spain?",
    "Who are you?",
]


def test_deterministic_gives_exactly_the_same_alone_together_and_cached() -> None:
    async def check(engine: Engine) -> None:
        async def ask(text: str) -> str:
            sampling = SamplingParams(temperature=1.5, top_p=0.99, seed=7)
            chat = Chat(sampling=sampling, max_tokens=40)
            await chat.say(engine, f"{'Here is a long beginning. ' * 30}{text}")
            return (await chat.say(engine, text))[0]

        alone = [await ask(text) for text in SAID]
        together = await asyncio.gather(*map(ask, SAID))
        assert list(together) == alone

    run(check, deterministic=True)


def test_what_stands_before_a_date_inside_the_instructions_is_found_the_third_time() -> None:
    async def test(engine: Engine) -> None:
        reused = []
        for time in ("09:14", "09:15", "10:31", "11:47"):
            chat = Chat(thinking=Thinking(False))
            rules = "Be brief and kind. " * 40
            chat.messages = [
                {"role": "system", "content": f"{rules}It is {time}. {rules}Obey."},
            ]
            _, finished, report = await chat.say(engine, "What is the capital of France?")
            reused.append(report.reused)
            half = finished.usage.prompt_tokens // 2
        assert reused[:2] == [0, 0]
        assert min(reused[2:]) > half - 40

    run(test)
