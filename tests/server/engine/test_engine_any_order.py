"""Requests of three tenants come, stay, leave, fail and are answered from too small a cache:
every answer is the right one, nobody is served from another's cache, and the accounts agree.

MXSERVE_ENGINE_EXAMPLES sets the number of runs, of up to 40 requests each.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.engine import Engine
from server.engine.errors import OutOfMemory, StepFailed
from server.engine.events import Failed, Finished
from tests.server.engine.conftest import ANSWER, TURN_END, Lab, Told

EXAMPLES = int(os.environ.get("MXSERVE_ENGINE_EXAMPLES", "30"))
BEGINNINGS = ("", "rules. ", "rules. " * 20)
TURNS = ("say one", "say another", "x" * 150 + "say long", "say one more", "well say 2", "?say 3")
FAULTS = {
    "": None,
    "prefill_fault": RuntimeError("Out of memory"),
    "restore_fault": RuntimeError("Out of memory"),
    "step_fault": RuntimeError("Out of memory"),
    "snapshot_fault": FloatingPointError("not finite"),
}


@dataclass(frozen=True)
class Step:
    """A request: so many turns of a conversation. alone: all before it are awaited first; leaves:
    after how many events its reader goes; fault: what goes wrong once, from its arrival on."""

    tenant: str
    beginning: int
    turns: tuple[int, ...]
    n: int
    alone: bool
    leaves: int | None
    fault: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        for number, turn in enumerate(self.turns):
            if number:
                said = TURNS[self.turns[number - 1]].split("say ")[1]
                messages.append({"role": "assistant", "content": said})
            content = TURNS[turn] if number else BEGINNINGS[self.beginning] + TURNS[turn]
            messages.append({"role": "user", "content": content})
        return messages

    @property
    def right(self) -> str:
        return TURNS[self.turns[-1]].split("say ")[1]

    @property
    def prompt(self) -> list[int]:
        tokens: list[int] = []
        for message in self.messages:
            tokens += [*map(ord, message["content"]), TURN_END]
        return [*tokens, ANSWER]


steps = st.builds(
    Step,
    tenant=st.sampled_from(["a", "b", "c"]),
    beginning=st.integers(0, len(BEGINNINGS) - 1),
    turns=st.lists(st.integers(0, len(TURNS) - 1), min_size=1, max_size=4).map(tuple),
    n=st.sampled_from([1, 1, 1, 2]),
    alone=st.sampled_from([True, True, False]),
    leaves=st.one_of(st.none(), st.none(), st.integers(0, 6)),
    fault=st.sampled_from(["", "", "", *FAULTS]),
)


async def read(lab: Lab, engine: Engine, step: Step) -> Told:
    if step.fault:
        setattr(lab.model, step.fault, FAULTS[step.fault])
    stream = await engine.submit(lab.request(step.messages, n=step.n, tenant=step.tenant))
    told = Told([])
    async for event in stream:
        told.events.append(event)
        if step.leaves is not None and len(told.events) > step.leaves:
            stream.cancel()
    return told


def agreement(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def check(step: Step, told: Told, before: list[Step]) -> None:
    """`before`: all requests that came earlier."""
    if isinstance(told.error, (OutOfMemory, StepFailed)) or step.leaves is not None:
        assert not any(isinstance(event, Failed) for event in told.events[:-1])
        return
    assert told.error is None, told.error
    assert told.content in (step.right, step.right * 2) or sorted(told.content) == sorted(
        step.right * step.n
    )
    mine = [other for other in before if other.tenant == step.tenant]
    # An earlier prompt, and the answer to it, are all that can be known.
    known = [[*other.prompt, *map(ord, other.right)] for other in mine]
    most = max((agreement(step.prompt, tokens) for tokens in known), default=0)
    for event in told.events:
        if isinstance(event, Finished):
            assert event.usage.cached_tokens <= most


@given(
    script=st.lists(steps, min_size=8, max_size=40),
    budget=st.sampled_from([1 << 30, 12_000, 4_000, 0]),
    max_batch=st.integers(2, 4),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_each_gets_its_own(script: list[Step], budget: int, max_batch: int) -> None:
    lab = Lab()

    async def run(engine: Engine) -> None:
        under_way: list[tuple[Step, asyncio.Task[Told], list[Step]]] = []

        async def finish() -> None:
            for step, task, before in under_way:
                check(step, await task, before)
            under_way.clear()

        for number, step in enumerate(script):
            if step.alone:
                await finish()
            task = asyncio.create_task(read(lab, engine, step))
            under_way.append((step, task, script[:number]))
            await asyncio.sleep(0)
        await finish()
        await lab.until(lambda: engine.health().active == 0)

    lab.run(run, prompt_cache_bytes=budget, max_batch=max_batch, max_queue=50)
