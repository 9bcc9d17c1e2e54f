"""Rules are compiled in a thread of their own, before the request takes a place in the queue."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from model.sampling import SamplingParams
from server.engine import Engine, EngineSettings, GenerationRequest, Thinking
from server.engine import engine as engine_module
from server.engine.errors import InvalidRequest
from server.engine.request import GrammarSpec

GREEDY = SamplingParams(temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)


def asked(value: str) -> GenerationRequest:
    return GenerationRequest(
        messages=[{"role": "user", "content": "Hi"}],
        sampling=GREEDY,
        thinking=Thinking(False),
        grammar=GrammarSpec("regex", value, "guided_regex"),
        max_tokens=8,
    )


def test_the_loop_runs_on_while_a_grammar_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine_module.compiled
    threads: list[int] = []
    waiting: list[int] = []

    async def test() -> None:
        engine = Engine(EngineSettings())
        await engine.start()

        def slow(*arguments: Any) -> Any:
            threads.append(threading.get_ident())
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                waiting.append(engine.health().queued + engine.health().active)
                time.sleep(0.01)
            return real(*arguments)

        monkeypatch.setattr(engine_module, "compiled", slow)
        try:
            submitting = asyncio.create_task(engine.submit(asked("ab")))
            ticks = 0
            while not submitting.done():
                ticks += 1
                await asyncio.sleep(0.005)
            assert ticks > 5
            async for _ in await submitting:
                pass
            with pytest.raises(InvalidRequest) as caught:
                await engine.submit(asked("("))
            assert caught.value.param == "guided_regex"
        finally:
            await engine.stop(5)

    asyncio.run(test())
    assert len(threads) == 2
    assert threading.get_ident() not in threads
    assert set(waiting[: len(waiting) // 2]) == {0}, "it takes no place while it is compiled"
