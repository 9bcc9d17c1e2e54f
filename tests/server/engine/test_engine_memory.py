"""A lack of memory costs time, or one request: the cache is given up, what was lost is computed
anew, and who would not fit waits."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine import Engine, Stream
from server.engine.errors import OutOfMemory
from server.engine.events import Started
from server.engine.running import RECOVERY_CHUNK

MEMORY_ERRORS = [
    MemoryError(),
    RuntimeError("[malloc] Unable to allocate 9 bytes."),
    RuntimeError("Out of memory"),
    RuntimeError(
        "[METAL] Command buffer execution failed: Insufficient Memory "
        "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    ),
    RuntimeError("[metal::malloc] Resource limit (499000) exceeded."),
]


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_out_of_memory_in_a_prompt_empties_the_cache_and_tries_smaller(lab: Any, error: Exception):
    async def check(engine: Engine) -> None:
        await lab.ask(engine, "say first")
        assert engine.health().cache_bytes > 0
        lab.model.prefilled.clear()
        lab.model.prefill_fault = error
        told = await lab.ask(engine, "x" * 600 + "say other")
        assert told.content == "other"
        assert sum(isinstance(event, Started) for event in told.events) == 1
        assert max(lab.model.prefilled) <= 128
        lab.model.prefill_fault, lab.model.fault_times = error, 2
        told = await lab.ask(engine, "y" * 600 + "say more")
        assert isinstance(told.error, OutOfMemory)
        await lab.until(lambda: engine.health().cache_bytes == 0)
        assert (await lab.ask(engine, "say first")).content == "first"
        assert engine.health().status == "ready"

    lab.run(check)


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_out_of_memory_in_a_step_costs_time_but_no_token(lab: Any, error: Exception):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {'m' * 100}{i}", n=i)) for i in (1, 2)]
        lab.model.fault_after, lab.model.step_fault = 50, error
        lab.model.gate.set()
        one, two = await asyncio.gather(*map(lab.read, streams))
        assert one.content == "m" * 100 + "1"
        assert sorted(two.content) == sorted(2 * ("m" * 100 + "2"))
        lab.model.fault_after, lab.model.fault_times, lab.model.step_fault = 5, 2, error
        told = await lab.ask(engine, "say " + "m" * 100)
        assert isinstance(told.error, OutOfMemory), "once is all"
        assert (await lab.ask(engine, "say next")).content == "next"
        assert engine.health().status == "ready"

    lab.run(check)


def test_a_request_waits_until_there_is_memory_for_it(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        first = await engine.submit(lab.request("say " + "a" * 500))
        await lab.until(lambda: engine.health().active == 1)
        lab.model.active_bytes = lab.model.limit_bytes
        second = await engine.submit(lab.request("say b"))
        lab.model.gate.set()
        assert (await lab.read(first)).content == "a" * 500
        assert (await lab.read(second)).content == "b", "alone it may try"
        assert lab.model.most_rows == 1

    lab.run(check, prompt_cache_bytes=0)


def test_a_request_that_must_wait_in_any_case_takes_nothing_from_the_cache(lab: Any):
    async def check(engine: Engine) -> None:
        await lab.ask(engine, "say known")
        lab.model.gate.clear()
        first = await engine.submit(lab.request("say " + "a" * 200))
        await lab.until(lambda: engine.health().active == 1)
        held = engine.health().cache_bytes
        lab.model.active_bytes = lab.model.limit_bytes
        second = await engine.submit(lab.request("say b"))
        lab.model.gate.set()
        async for _ in first:
            if engine.health().active == 1 and engine.health().queued == 1:
                assert engine.health().cache_bytes >= held
        assert (await lab.read(second)).content == "b"

    lab.run(check)


@pytest.mark.parametrize("error", MEMORY_ERRORS)
def test_out_of_memory_in_taking_what_is_cached_starts_over_without_it(lab: Any, error: Exception):
    async def check(engine: Engine) -> None:
        text = "x" * 600 + "say known"
        await lab.ask(engine, text)
        lab.model.prefilled.clear()
        lab.model.restore_fault = error
        told = await lab.ask(engine, text)
        assert told.content == "known"
        assert told.finished[0].usage.cached_tokens == 0
        assert sum(isinstance(event, Started) for event in told.events) == 1
        assert max(lab.model.prefilled) <= 128
        assert (await lab.ask(engine, text)).finished[0].usage.cached_tokens > 600
        lab.model.restore_fault, lab.model.prefill_fault = error, error
        assert isinstance((await lab.ask(engine, text)).error, OutOfMemory), "once is all"
        assert engine.health().status == "ready"

    lab.run(check)


@pytest.fixture
def slow_recovery(lab: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Once `on`, a chunk of the model takes 40 s by the engine's clock; `after(chunks)` is called
    behind each in the worker's thread."""
    slow = SimpleNamespace(on=False, late=0.0, chunks=0, after=lambda chunks: None)
    clocks = SimpleNamespace(monotonic=lambda: time.monotonic() + slow.late, time=time.time)
    monkeypatch.setattr("server.engine.engine.time", clocks)

    def prefilled(tokens: int) -> None:
        if slow.on:
            slow.late += 40
            slow.chunks += 1
            slow.after(slow.chunks)

    lab.model.on_prefill = prefilled
    return slow


async def lose_a_long_prompt(lab: Any, engine: Engine, slow: SimpleNamespace) -> Stream:
    """A stream behind a prompt of several recovery chunks; memory runs out in its next step."""
    lab.model.gate.clear()
    stream = await engine.submit(lab.request("y" * (5 * RECOVERY_CHUNK) + "say much"))
    lab.model.fault_after, lab.model.step_fault = 2, RuntimeError("Out of memory")
    slow.on = True
    lab.model.gate.set()
    return stream


def test_a_long_recovery_is_no_step_that_does_not_return(lab: Any, slow_recovery: SimpleNamespace):
    async def check(engine: Engine) -> None:
        worker = engine._worker
        assert worker is not None
        slow_recovery.after = lambda chunks: worker.watch()
        stream = await lose_a_long_prompt(lab, engine, slow_recovery)
        assert (await lab.read(stream)).content == "much"
        assert slow_recovery.late > 2 * 60
        assert engine.health().status == "ready"

    lab.run(check, watchdog_s=60)


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_a_recovery_that_nobody_waits_for_ends(lab: Any, slow_recovery: SimpleNamespace, end: str):
    async def check(engine: Engine) -> None:
        prompt_chunks = 0
        streams: list[Stream] = []

        def after(chunks: int) -> None:
            nonlocal prompt_chunks
            if lab.model.step_fault is not None:
                prompt_chunks = chunks
            elif chunks == prompt_chunks + 2:
                if end == "cancel":
                    streams[0].cancel()
                else:
                    slow_recovery.late += 10_000

        slow_recovery.after = after
        streams.append(await lose_a_long_prompt(lab, engine, slow_recovery))
        told = await lab.read(streams[0])
        assert (told.error is not None) == (end == "timeout")
        await lab.until(lambda: engine.health().active == 0)
        assert slow_recovery.chunks == prompt_chunks + 2
        slow_recovery.on = False
        assert (await lab.ask(engine, "say next")).content == "next"

    lab.run(check, request_timeout=5_000)
