"""Small requests beside a main session, as opencode and goose send for a title: another system
prompt, no tools. They widen no gap beyond the target and push nothing of the main session out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from model.sampling import SamplingParams
from server.bench.workloads import words
from server.engine import Engine, EngineSettings, GenerationRequest, Thinking
from server.engine.events import ContentDelta, Finished
from tests.server.engine.scheduler_desk import GAP_S
from tests.server.engine.scheduler_simulation import Client, Device, Simulation

TITLE = "You name conversations. Answer with a title of at most six words and nothing else."
TOOL = {
    "type": "function",
    "function": {
        "name": "read_file",
        "description": "Text of a file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
}


# When: in simulation, where time is exact.


def titles(count: int, every: float, first: float) -> list[Client]:
    return [
        Client(f"title {i}", prompt=500, answers=(15,), arrives=first + every * i)
        for i in range(count)
    ]


@pytest.mark.parametrize("device", [Device(), Device(token_s=0.002), Device(step_s=0.05)])
def test_titles_do_not_stretch_the_gaps_of_an_answer(device: Device) -> None:
    main = Client("main", prompt=20_000, answers=(800,))
    others = titles(12, every=0.7, first=0.1)
    Simulation([main, *others], device).run()
    assert max(main.gaps[20:]) <= GAP_S * 1.01


def test_a_title_asked_with_the_main_prompt_delays_it_by_its_own_cost_only() -> None:
    def first_token(*others: Client) -> float:
        main = Client("main", prompt=20_000, arrives=0.001)
        Simulation([main, *others], device).run()
        return main.first_token_s

    device = Device()
    title = titles(1, every=0, first=0.0)[0]
    cost = title.prompt * device.token_s + title.answers[0] * device.step(2)
    assert first_token(title) <= first_token() + 1.5 * cost
    assert title.first_token_s < 1.0, "nor does it wait for 20,000 tokens"


# What stays cached: the real engine on the demo model.


class Session:
    """A client with one system prompt; it keeps all messages, without thoughts."""

    def __init__(self, engine: Engine, system: str, **fields: Any) -> None:
        self._engine = engine
        self._fields: dict[str, Any] = {
            "sampling": SamplingParams(temperature=0.0),
            "max_tokens": 60,
            "thinking": Thinking(),
            **fields,
        }
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
        self.known = 0  # tokens of the last prompt and its answer

    async def say(self, text: str) -> int:
        """Returns how many tokens of what was known were computed again."""
        known = self.known
        self.messages.append({"role": "user", "content": text})
        request = GenerationRequest(list(self.messages), **self._fields)
        stream = await self._engine.submit(request)
        content, usage = "", None
        async for event in stream:
            if isinstance(event, ContentDelta):
                content += event.text
            elif isinstance(event, Finished):
                usage = event.usage
        assert usage is not None
        self.messages.append({"role": "assistant", "content": content})
        self.known = usage.prompt_tokens + usage.completion_tokens
        return max(known - usage.cached_tokens, 0)


def run(test: Callable[[Engine], Awaitable[int]], **settings: Any) -> int:
    async def check() -> int:
        engine = Engine(EngineSettings(**settings))
        await engine.start()
        try:
            return await test(engine)
        finally:
            await engine.stop(5)

    return asyncio.run(check())


async def main_session(engine: Engine) -> Session:
    session = Session(engine, f"You are an agent. {words(400, 1)}", tools=[TOOL])
    for text in ("What is 17 + 25?", "Count from 3 to 9.", "What is the capital of France?"):
        assert await session.say(text) == 0
    return session


async def bytes_of_main(engine: Engine) -> int:
    await main_session(engine)
    return engine.health().cache_bytes


async def bytes_of_title(engine: Engine) -> int:
    await Session(engine, TITLE, max_tokens=15).say(words(60, 2))
    return engine.health().cache_bytes


@pytest.mark.parametrize("room_for", [1.2, 3.0])
def test_titles_do_not_evict_the_main_session(room_for: float) -> None:
    """The budget holds the main session and a title or three; dozens come between its turns."""

    async def check(engine: Engine) -> int:
        main = await main_session(engine)
        again = 0
        for turn in range(4):
            for number in range(12):
                title = Session(engine, TITLE, max_tokens=15)
                await title.say(words(60, 100 * turn + number))
            beside = Session(engine, TITLE, max_tokens=15)
            fed, _ = await asyncio.gather(
                main.say(f"And {turn} + 5?"), beside.say(words(60, 50 + turn))
            )
            again += fed
        return again

    # The main session's four turns come on top of what it takes now.
    budget = int(run(bytes_of_main) * 1.4 + run(bytes_of_title) * room_for)
    assert run(check, prompt_cache_bytes=budget) == 0
