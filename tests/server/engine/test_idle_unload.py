"""--idle-unload: a quiet engine gives its model back and loads it again when it is asked."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from server.engine import Engine, EngineSettings
from server.engine.errors import LoadFailed, RequestTimeout
from server.engine.events import ModelLoading
from server.engine.idle_unload import FIRST_TOLD_S, TOLD_EVERY_S, IdleUnload
from tests.server.engine.conftest import CLOSING, Lab, Model, Turns, backend

SOON = 0.05


@dataclass
class Loads:
    """Models loaded one after the other; `gate` holds up a load, `fault` makes one fail."""

    made: list[weakref.ref[Model]] = field(default_factory=list)
    freed: int = 0
    grammars: int = 0
    fingerprint: str = "fake"
    gate: threading.Event = field(default_factory=threading.Event)
    fault: BaseException | None = None
    tell: Any = None

    def engine(self, **settings: Any) -> Engine:
        self.gate.set()
        plain = backend(Model(), Turns())

        def load() -> Any:
            assert self.gate.wait(20)
            if self.tell is not None:
                self.tell(3, 4)
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            model = Model(fingerprint=self.fingerprint)
            self.made.append(weakref.ref(model))
            return model

        def free() -> int:
            self.freed += 1
            return 7

        def grammars(model: Any) -> Any:
            self.grammars += 1
            return plain.grammars(model)

        return Engine(
            EngineSettings(closing_text=CLOSING, idle_unload_s=SOON, **settings),
            model_functions=replace(plain, load=load, free=free, grammars=grammars),
        )

    @property
    def alive(self) -> int:
        gc.collect()
        return sum(made() is not None for made in self.made)


async def true(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (nobody calls back)
        await asyncio.sleep(0.005)


async def until(engine: Engine, state: str) -> None:
    await true(lambda: engine.health().model_state == state)


def run(loads: Loads, test: Any, **settings: Any) -> None:
    async def all_of_it() -> None:
        engine = loads.engine(**settings)
        await engine.start()
        try:
            await test(engine)
        finally:
            loads.gate.set()
            await engine.stop(0)

    asyncio.run(asyncio.wait_for(all_of_it(), 30))


async def said(engine: Engine, text: str) -> str:
    return (await Lab.read(await engine.submit(Lab.request(f"say {text}")))).content


def test_a_quiet_engine_frees_its_model_and_still_answers():
    loads = Loads()

    async def test(engine: Engine) -> None:
        assert await said(engine, "one") == "one"
        await until(engine, "unloaded")
        await true(lambda: loads.freed == 1)
        await true(lambda: engine.health().memory["active_bytes"] == 7)
        assert loads.alive == 0
        health = engine.health()
        assert (health.status, health.reason) == ("ready", None)
        assert (health.cache_bytes, health.cache_entries) == (0, 0)
        assert engine.info.id == "fake"
        assert await said(engine, "two") == "two"
        assert len(loads.made) == 2

    run(loads, test)
    assert loads.grammars == 1


def test_without_the_setting_it_stays():
    rest = IdleUnload(None, lambda: 1e9)
    assert rest.rest_s(0.0) is None


def test_the_time_counts_from_the_last_piece_of_work():
    now = [100.0]
    unload = IdleUnload(60.0, lambda: now[0])
    assert unload.rest_s(90.0) == pytest.approx(50.0)
    now[0] = 149.9
    assert unload.rest_s(90.0) == pytest.approx(0.1)
    now[0] = 200.0
    assert unload.rest_s(90.0) == 0


def test_progress_is_told_now_and_then():
    now = [0.0]
    unload = IdleUnload(60.0, lambda: now[0])
    unload.loading()
    assert unload.progress(1, 10) is None
    now[0] = FIRST_TOLD_S
    assert unload.progress(2, 10) == ModelLoading(2, 10)
    assert unload.progress(3, 10) is None
    now[0] += TOLD_EVERY_S
    assert unload.progress(4, 10) == ModelLoading(4, 10)


def test_requests_that_come_meanwhile_wait_and_hear_of_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.engine.idle_unload.FIRST_TOLD_S", 0.0)
    loads = Loads()

    async def test(engine: Engine) -> None:
        loads.tell = engine.loading
        await until(engine, "unloaded")
        loads.gate.clear()
        streams = [await engine.submit(Lab.request(f"say {word}")) for word in ("a", "b")]
        await until(engine, "loading")
        assert engine.health().status == "ready"
        assert engine.health().queued == 2
        loads.gate.set()
        told = await asyncio.gather(*map(Lab.read, streams))
        assert [each.content for each in told] == ["a", "b"]
        assert all(each.events[0] == ModelLoading(3, 4) for each in told)

    run(loads, test)


def test_a_load_that_fails_is_told_and_the_next_request_tries_again():
    loads = Loads()

    async def test(engine: Engine) -> None:
        await until(engine, "unloaded")
        loads.fault = OSError("the disk with the weights is gone")
        told = await Lab.read(await engine.submit(Lab.request("say one")))
        assert isinstance(told.error, LoadFailed)
        assert "the disk with the weights is gone" in str(told.error)
        assert engine.health().status == "ready"
        assert await said(engine, "two") == "two"

    run(loads, test)


def test_another_checkpoint_in_its_place_is_not_served():
    """Its tokenizer and template would be those of the one before."""
    loads = Loads()

    async def test(engine: Engine) -> None:
        await until(engine, "unloaded")
        loads.fingerprint = "another"
        told = await Lab.read(await engine.submit(Lab.request("say one")))
        assert isinstance(told.error, LoadFailed)
        assert "restart" in str(told.error)
        assert loads.alive == 0
        loads.fingerprint = "fake"
        assert await said(engine, "two") == "two"

    run(loads, test)


def test_limits_of_time_and_cancels_hold_while_it_loads():
    loads = Loads()

    async def test(engine: Engine) -> None:
        await until(engine, "unloaded")
        loads.gate.clear()
        late = await engine.submit(Lab.request("say late", timeout=0.05))
        gone = await engine.submit(Lab.request("say gone"))
        stays = await engine.submit(Lab.request("say stays"))
        assert isinstance((await Lab.read(late)).error, RequestTimeout)
        gone.cancel()
        assert not (await Lab.read(gone)).events
        loads.gate.set()
        assert (await Lab.read(stays)).content == "stays"

    run(loads, test)


def test_it_stops_while_unloaded_and_while_loading():
    async def unloaded(engine: Engine) -> None:
        await until(engine, "unloaded")

    async def loading(engine: Engine) -> None:
        await until(engine, "unloaded")
        loads.gate.clear()
        stream = await engine.submit(Lab.request("say never"))
        await until(engine, "loading")
        stopping = asyncio.create_task(engine.stop(0))
        worker = engine._worker
        assert worker is not None
        await true(lambda: worker._jobs.stopping)
        loads.gate.set()
        await stopping
        assert (await Lab.read(stream)).error is not None

    loads = Loads()
    run(loads, unloaded)
    run(loads, loading)
    assert loads.alive == 0


@pytest.mark.slow
def test_the_real_model_leaves_next_to_nothing_behind(tmp_path: Any):
    import gc

    import mlx.core as mx

    from model.sampling import SamplingParams
    from server.engine import GenerationRequest, Thinking

    def asked() -> GenerationRequest:
        return GenerationRequest(
            [{"role": "user", "content": "What is the capital of France?"}],
            sampling=SamplingParams(temperature=0.0),
            thinking=Thinking(False),
        )

    async def test() -> None:
        settings = EngineSettings(idle_unload_s=0.2, disk_cache=tmp_path)
        engine = Engine(settings)
        gc.collect()
        others = mx.get_active_memory()  # what other tests of this process still hold
        await engine.start()
        try:
            loaded = engine.health().memory["active_bytes"] - others
            first = await Lab.read(await engine.submit(asked()))
            await until(engine, "unloaded")
            await true(lambda: engine.health().memory["active_bytes"] - others < loaded // 100)
            assert engine.health().disk_cache_bytes > 0
            second = await Lab.read(await engine.submit(asked()))
            assert second.content == first.content
            assert "Paris" in second.content
            assert second.finished[0].usage.cached_tokens > 0
        finally:
            await engine.stop(0)

    asyncio.run(asyncio.wait_for(test(), 120))
