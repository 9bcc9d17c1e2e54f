"""Nothing a request does ends the worker, and no request ever hangs: injected faults."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine import Engine
from server.engine.errors import (
    Draining,
    EngineDead,
    RequestTimeout,
    StepFailed,
)


@pytest.mark.parametrize("fault", ["prefill_fault", "step_fault", "snapshot_fault"])
def test_an_exception_fails_its_request_and_the_next_one_is_served(lab: Any, fault: str):
    async def check(engine: Engine) -> None:
        setattr(lab.model, fault, ValueError("injected"))
        told = await lab.ask(engine, "say first")
        assert isinstance(told.error, StepFailed)
        assert "injected" not in str(told.error), "details go to the log"
        assert not told.finished
        assert (await lab.ask(engine, "say second")).content == "second"
        assert engine.health().status == "ready"

    lab.run(check)


def test_an_exception_in_a_step_fails_all_its_rows_once_each_and_nobody_else(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {'n' * 200}{i}")) for i in range(4)]
        lab.model.fault_after = 60
        lab.model.step_fault = RuntimeError("injected")
        lab.model.gate.set()
        for told in await asyncio.gather(*map(lab.read, streams)):
            assert isinstance(told.error, StepFailed)
            assert 0 < len(told.content) < 200
        assert (await lab.ask(engine, "say next")).content == "next"
        assert lab.model.self_tests == 1
        assert engine.health().status == "ready"

    lab.run(check)


def test_a_failing_prompt_leaves_the_streams_alone(lab: Any):
    async def check(engine: Engine) -> None:
        stream = await engine.submit(lab.request(f"say {'n' * 900}"))
        await lab.until(lambda: lab.model.steps > 3)
        lab.model.prefill_fault = RuntimeError("injected")
        assert isinstance((await lab.ask(engine, "x" * 100 + "say x")).error, StepFailed)
        assert (await lab.read(stream)).content == "n" * 900

    lab.run(check)


def test_a_second_failed_step_soon_after_is_the_end(lab: Any):
    async def check(engine: Engine) -> None:
        for _ in range(2):
            lab.model.step_fault = RuntimeError("injected")
            assert (await lab.ask(engine, "say x")).error is not None
        await lab.until(lambda: engine.health().status == "dead")
        assert "two steps failed" in str(engine.health().reason)
        with pytest.raises(EngineDead):
            await lab.ask(engine, "say x")

    lab.run(check)


def test_a_failed_self_test_is_the_end(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.step_fault = RuntimeError("injected")
        lab.model.self_test_fault = RuntimeError("zeros")
        assert isinstance((await lab.ask(engine, "say x")).error, StepFailed)
        await lab.until(lambda: engine.health().status == "dead")
        assert "self-test" in str(engine.health().reason)

    lab.run(check)


@pytest.mark.parametrize("hours", [8, -1])
def test_after_the_machine_slept_the_engine_tests_itself(
    lab: Any, monkeypatch: pytest.MonkeyPatch, hours: int
):
    """The time of day jumps, the monotonic clock does not: no request has run out of time."""
    jump = [0.0]
    clocks = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + jump[0])
    monkeypatch.setattr("server.engine.engine.time", clocks)

    async def check(engine: Engine) -> None:
        assert (await lab.ask(engine, "say before")).content == "before"
        assert lab.model.self_tests == 0
        lab.model.gate.clear()
        under_way = await engine.submit(lab.request("say while", timeout=60))
        jump[0] = hours * 3600
        lab.model.gate.set()
        assert (await lab.read(under_way)).content == "while"
        assert lab.model.self_tests == 1
        assert (await lab.ask(engine, "say after")).content == "after"
        assert lab.model.self_tests == 1
        jump[0], lab.model.self_test_fault = 0, RuntimeError("the driver is gone")
        told = await lab.ask(engine, "say never")
        assert isinstance(told.error, EngineDead)
        assert (
            engine.health().reason == "the self-test failed after the machine slept: RuntimeError"
        )

    lab.run(check)


def test_a_step_that_does_not_come_back_is_seen_and_everybody_told(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {i}")) for i in range(3)]
        for told in await asyncio.gather(*map(lab.read, streams)):
            assert isinstance(told.error, EngineDead)
        health = engine.health()
        assert health.status == "dead"
        assert "did not return within 0.3 s" in str(health.reason)
        with pytest.raises(EngineDead):
            await lab.ask(engine, "say x")
        lab.model.gate.set()

    lab.run(check, watchdog_s=0.3, max_batch=1)


def test_logits_that_are_not_finite_fail_the_request_and_are_never_cached(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.poison = True
        told = await lab.ask(engine, "say poison")
        assert isinstance(told.error, StepFailed)
        assert engine.health().cache_entries == 0
        told = await lab.ask(engine, "say poison")
        assert told.content == "poison"
        assert told.finished[0].usage.cached_tokens == 0

    lab.run(check)


def test_a_prompt_whose_state_is_not_finite_fails_as_often_as_it_is_sent(lab: Any):
    """It says nothing against the device: no self-test, and no end after the second time."""

    async def check(engine: Engine) -> None:
        for _ in range(3):
            lab.model.snapshot_fault = FloatingPointError("the recurrent state is not finite")
            told = await lab.ask(engine, "say poison")
            assert isinstance(told.error, StepFailed)
            assert engine.health().cache_entries == 0
        assert lab.model.self_tests == 0
        assert (await lab.ask(engine, "say poison")).content == "poison"

    lab.run(check)


def test_a_bad_row_leaves_the_rest_of_its_step_alone(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {'n' * 20}{i}")) for i in range(4)]
        lab.model.poison, lab.model.fault_after = True, 30
        lab.model.gate.set()
        told = await asyncio.gather(*map(lab.read, streams))
        assert [isinstance(t.error, StepFailed) for t in told].count(True) == 1
        whole = [t.content for t in told if t.error is None]
        assert len(set(whole)) == 3
        assert set(whole) < {f"{'n' * 20}{i}" for i in range(4)}

    lab.run(check)


def test_later_logits_that_are_not_finite_cache_no_turn(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.poison, lab.model.fault_after = True, 3
        told = await lab.ask(engine, "say poison")
        assert isinstance(told.error, StepFailed)
        assert told.content == "poi"
        assert engine.health().cache_entries == 1, "the prompt alone"
        assert not lab.turns.kept

    lab.run(check)


def test_a_failure_after_the_last_event_is_not_told_but_survived(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.snapshot_fault = ValueError("injected")
        lab.model.fault_after = 1  # the first is the prompt's, the second the finished turn's
        told = await lab.ask(engine, "say fine")
        assert told.content == "fine"
        assert told.error is None
        await lab.until(lambda: engine.health().active == 0)
        assert (await lab.ask(engine, "say more")).content == "more"

    lab.run(check)


def test_a_dead_worker_tells_everyone_and_refuses_the_next(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {i}")) for i in range(3)]
        lab.model.step_fault = SystemExit("injected")
        lab.model.gate.set()
        for told in await asyncio.gather(*map(lab.read, streams)):
            assert isinstance(told.error, EngineDead)
        health = engine.health()
        assert health.status == "dead"
        assert health.reason is not None
        assert "injected" in health.reason
        with pytest.raises(EngineDead):
            await lab.ask(engine, "say x")

    lab.run(check, max_batch=1)


def test_a_model_that_does_not_load_is_told_to_start(lab: Any):
    lab.model.load_fault = FileNotFoundError("no such checkpoint")

    async def start() -> None:
        with pytest.raises(FileNotFoundError, match="no such checkpoint"):
            async with lab.engine():
                raise AssertionError("started")

    asyncio.run(start())


@pytest.mark.parametrize("phase", ["queue", "work"])
def test_a_request_past_its_time_fails(lab: Any, phase: str):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        before = []
        if phase == "queue":
            before.append(await engine.submit(lab.request("say first")))
            await lab.until(lambda: engine.health().active == 1)
        late = await engine.submit(lab.request("say late", timeout=0.05))
        await asyncio.sleep(0.1)
        lab.model.gate.set()
        assert isinstance((await lab.read(late)).error, RequestTimeout)
        for first in before:
            assert (await lab.read(first)).content == "first"
        assert (await lab.ask(engine, "say next")).content == "next"

    lab.run(check, max_batch=1)


def test_the_setting_is_the_time_of_those_that_say_nothing(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        late = await engine.submit(lab.request("say late"))
        await asyncio.sleep(0.1)
        lab.model.gate.set()
        assert isinstance((await lab.read(late)).error, RequestTimeout)

    lab.run(check, request_timeout=0.05)


def test_stop_lets_those_in_flight_finish(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request(f"say {'w' * 300}")) for _ in range(3)]
        stopping = asyncio.create_task(engine.stop(20))
        await asyncio.sleep(0.02)
        with pytest.raises(Draining):
            await lab.ask(engine, "say x")
        lab.model.gate.set()
        assert [(await lab.read(s)).content for s in streams] == ["w" * 300] * 3
        await stopping

    lab.run(check)


def test_stop_ends_what_is_left_with_a_proper_event(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        streams = [await engine.submit(lab.request("say never")) for _ in range(3)]
        stopping = asyncio.create_task(engine.stop(0.05))
        await asyncio.sleep(0.1)
        lab.model.gate.set()
        await stopping
        for stream in streams:
            assert isinstance((await lab.read(stream)).error, Draining)

    lab.run(check, max_batch=1)
