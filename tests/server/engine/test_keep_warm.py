"""When the GPU is kept warm: by a clock that the test moves, and by an engine."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine import Engine
from server.engine.keep_warm import EVERY_S, KeepWarm
from tests.server.engine.conftest import Lab, Model


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def idle(policy: KeepWarm, clock: Clock, tick_s: float = 0.0) -> list[float]:
    """Waits as the worker does until no tick will come; seconds from the start to each tick."""
    begin, ticks = clock.now, []
    while (wait := policy.wait()) is not None:
        clock.now += wait
        if policy.wait() == 0:
            ticks.append(clock.now - begin)
            clock.now += tick_s
            policy.ticked()
        assert len(ticks) < 10_000
    return ticks


def test_off_never_ticks() -> None:
    clock = Clock()
    policy = KeepWarm(None, clock)
    policy.worked()
    assert policy.wait() is None


def test_nothing_is_kept_warm_before_the_first_piece_of_work() -> None:
    assert KeepWarm(60, Clock()).wait() is None


def test_ticks_come_evenly_and_end() -> None:
    clock = Clock()
    policy = KeepWarm(1.0, clock)
    policy.worked()
    ticks = idle(policy, clock)
    assert abs(len(ticks) - 1.0 / EVERY_S) <= 1
    assert all(abs(b - a - EVERY_S) < 2e-3 for a, b in itertools.pairwise(ticks))
    clock.now += 3600
    assert policy.wait() is None
    policy.worked()
    assert policy.wait() == pytest.approx(EVERY_S)


@given(
    seconds=st.floats(0.01, 5),
    work=st.lists(st.floats(0, 3), max_size=4),
    tick_s=st.floats(0, 0.2),
)
def test_never_later_than_so_long_after_work(
    seconds: float, work: list[float], tick_s: float
) -> None:
    clock = Clock()
    policy = KeepWarm(seconds, clock)
    for pause in [*work, 0.0]:
        clock.now += pause
        policy.worked()
        assert all(tick <= seconds + tick_s + 1e-6 for tick in idle(policy, clock, tick_s))


def test_work_puts_the_next_tick_off() -> None:
    clock = Clock()
    policy = KeepWarm(10, clock)
    policy.worked()
    clock.now += EVERY_S * 0.9
    policy.worked()
    assert policy.wait() == pytest.approx(EVERY_S)


def test_after_a_tick_that_failed_there_are_no_more() -> None:
    policy = KeepWarm(10, Clock())
    policy.worked()
    policy.stop()
    assert policy.wait() is None
    policy.worked()
    assert policy.wait() is None


def running(model: Model, test: Callable[[Engine], Awaitable[None]], **settings: Any) -> None:
    """`test` against an engine of this model that keeps the GPU warm for 20 s."""
    Lab(model).run(test, keep_warm_s=20.0, **settings)


async def said(engine: Engine, text: str) -> str:
    return (await Lab.read(await engine.submit(Lab.request(f"say {text}")))).content


def test_an_idle_gpu_is_touched_after_work_and_the_engine_stays_idle() -> None:
    model = Model(on_gpu=True)

    async def test(engine: Engine) -> None:
        await said(engine, "one")
        before = model.touches
        await Lab.until(lambda: model.touches >= before + 3)
        assert engine.health().last_step_age_s is None
        assert await said(engine, "two") == "two"

    running(model, test)


def test_a_cpu_is_left_alone() -> None:
    model = Model(on_gpu=False)

    async def test(engine: Engine) -> None:
        await said(engine, "one")
        await asyncio.sleep(4 * EVERY_S)
        assert model.touches == 0

    running(model, test)


def test_a_touch_that_fails_is_the_last_and_requests_go_on() -> None:
    model = Model(on_gpu=True, touch_fault=RuntimeError("no device"), fault_times=1000)

    async def test(engine: Engine) -> None:
        await said(engine, "one")
        await Lab.until(lambda: model.touches == 1)
        assert await said(engine, "two") == "two"
        await asyncio.sleep(4 * EVERY_S)
        assert model.touches == 1
        assert engine.health().status == "ready"

    running(model, test)


def test_the_model_is_unloaded_all_the_same() -> None:
    model = Model(on_gpu=True)

    async def test(engine: Engine) -> None:
        await said(engine, "one")
        await Lab.until(lambda: engine.health().model_state == "unloaded")
        assert model.touches > 0

    running(model, test, idle_unload_s=3 * EVERY_S)
