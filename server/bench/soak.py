"""Many clients for minutes, in all dialects: some hang up, some cancel, some ask too much, and the
server may be killed in the middle. Nothing lost, nothing doubled, nothing leaked.

Knows what to ask, the reference answers and what a leak looks like. Nothing of how a server is
started or of tables. Each request is seeded, so its answer is known from having been asked alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.bench.client import BenchError
from server.bench.dialects import DIALECTS, NAMES, Question
from server.bench.process_figures import ProcessFigures, process_figures
from server.bench.soak_report import Reading, Soak
from server.bench.soak_tally import Tally, judge
from server.bench.streams import Stream, StreamClient, together
from server.bench.workloads import words

SAMPLE_S = 2.0
IDLE_LIMIT_S = 60.0
SETTLE_S = 7.0  # connections that are kept alive have been closed by then
REQUEST_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How a soak goes. hang_ups, over_long: shares of the requests; cancels: of those in the
    dialect that has a cancel; kill_at_s: when the server is killed and started again, None for
    never."""

    streams: int
    seconds: float
    seed: int
    hang_ups: float = 0.3
    cancels: float = 0.2
    over_long: float = 0.01
    kill_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in one dialect."""

    dialect: str
    question: Question

    async def ask(self, client: StreamClient, **options: Any) -> Stream:
        dialect = DIALECTS[self.dialect]
        body = dialect.body(self.question)
        return await client.ask(body, path=dialect.path, read=dialect.read, **options)


@dataclass(slots=True)
class Life:
    """The server's process. `up` is set while it serves; number: of the process, from 0."""

    pid: int | None
    number: int = 0
    up: asyncio.Event = field(default_factory=asyncio.Event)


def requests(
    count: int, seed: int, banned: Sequence[int], dialects: Sequence[str] = NAMES
) -> list[Asked]:
    """`count` different requests, the dialects in turn: prompts of 5 to 300 words, 8 to 96 tokens
    of answer, greedy and sampled, each with a seed of its own. `banned`: tokens that would end an
    answer early."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        question = Question(
            text=words(draw.choice((5, 20, 80, 300)), seed + number),
            tokens=draw.randint(8, 96),
            temperature=draw.choice((0.0, 0.7, 1.0)),
            seed=draw.randrange(2**31),
            thinking=draw.random() < 0.5,
            banned=tuple(banned),
        )
        made.append(Asked(dialects[number % len(dialects)], question))
    return made


async def references(client: StreamClient, asked: Sequence[Asked]) -> list[Stream]:
    """Each request's answer, one at a time. Raises BenchError when one fails."""
    found = []
    for one in asked:
        answer = await one.ask(client, limit_s=REQUEST_LIMIT_S)
        if answer.error:
            raise BenchError(f"a reference answer ({one.dialect}) failed: {answer.error}")
        found.append(answer)
    return found


async def soak(
    client: StreamClient,
    asked: Sequence[Asked],
    answers: Sequence[Stream],
    plan: Plan,
    *,
    pid: int | None,
    restart: Callable[[], int | None] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Soak:
    """`plan.streams` clients ask at random and check each answer. `restart` kills the server,
    starts it again and returns its pid; it blocks."""
    tally, readings = Tally(), []
    context = await client.context_length()
    life = Life(pid)
    life.up.set()
    before = process_figures(pid) if pid is not None else ProcessFigures()
    start = time.perf_counter()
    end = start + plan.seconds

    async def one_client(number: int) -> None:
        draw = random.Random(f"{plan.seed} {number}")
        while time.perf_counter() < end:
            await life.up.wait()
            if context is not None and draw.random() < plan.over_long:
                await _ask_too_much(client, context, tally, life)
                continue
            chosen = draw.randrange(len(asked))
            await _ask_one(client, asked[chosen], answers[chosen], draw, plan, tally, life)

    async def look() -> None:
        while time.perf_counter() < end:
            if life.up.is_set():
                readings.append(await _reading(client, life, start))
                if len(readings) % 15 == 0:
                    progress(f"{readings[-1].at_s:.0f} s, {tally.requests} requests")
            await asyncio.sleep(SAMPLE_S)

    async def kill() -> None:
        if restart is None or plan.kill_at_s is None:
            return
        await asyncio.sleep(plan.kill_at_s)
        progress("the server is killed")
        life.up.clear()
        life.number += 1
        life.pid = await asyncio.to_thread(restart)
        progress("the server is there again")
        life.up.set()

    await together([look(), kill(), *(one_client(number) for number in range(plan.streams))])
    seconds = time.perf_counter() - start
    idle = await _idle(client)
    readings.append(await _reading(client, life, start))
    await asyncio.sleep(SETTLE_S)
    after = process_figures(life.pid) if life.pid is not None else ProcessFigures()
    return Soak(plan.streams, seconds, tally, readings, idle, life.number, before, after)


async def _ask_one(
    client: StreamClient,
    asked: Asked,
    reference: Stream,
    draw: random.Random,
    plan: Plan,
    tally: Tally,
    life: Life,
) -> None:
    """One request, maybe hung up on or cancelled somewhere, and what came of it."""
    pieces, process = draw.randint(0, len(reference.arrivals)), life.number
    cancels = asked.dialect == "responses" and draw.random() < plan.cancels
    leaves = not cancels and draw.random() < plan.hang_ups
    got = Stream()

    def enough(stream: Stream) -> bool:
        return len(stream.arrivals) >= pieces

    cancelled = False
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(
            asked.ask(
                client,
                hang_up=enough if leaves else lambda _: False,
                limit_s=REQUEST_LIMIT_S,
                into=got,
            )
        )
        while cancels and not asking.done():
            await asyncio.sleep(0.02)
            if got.id and enough(got):
                status = await client.post(f"/v1/responses/{got.id}/cancel")
                cancelled = status == 200  # 400: it had ended just before
                break
    killed = life.number != process
    judge(tally, got, reference, asked.dialect, cancelled=cancelled, killed=killed)
    if got.status == 429:
        await asyncio.sleep(1.0)


async def _ask_too_much(client: StreamClient, context: int, tally: Tally, life: Life) -> None:
    """A prompt one token longer than the context, which has to be refused."""
    process = life.number
    status = await client.post("/v1/completions", {"prompt": [1] * (context + 1), "max_tokens": 1})
    tally.sent("over-long")
    if status == 400:
        tally.over_long += 1
    elif status == 429:
        tally.refused += 1
    elif life.number != process:
        tally.interrupted += 1
    else:
        tally.fail(f"HTTP {status} for a prompt that is too long")


async def _reading(client: StreamClient, life: Life, start: float) -> Reading:
    memory = (await client.health()).get("memory") or {}
    figures = ProcessFigures()
    if life.pid is not None:
        figures = await asyncio.to_thread(process_figures, life.pid)
    at = time.perf_counter() - start
    active = memory.get("active_bytes")
    return Reading(at, figures.rss, active, figures.files, figures.threads, life.number)


async def _idle(client: StreamClient) -> dict[str, Any]:
    """The server's health once nothing is active, or after a minute as it is then."""
    deadline = time.perf_counter() + IDLE_LIMIT_S
    while True:
        health: Mapping[str, Any] = await client.health()
        busy = health.get("active") or health.get("queued")
        if not busy or time.perf_counter() > deadline:
            names = ("status", "active", "queued", "slots", "memory", "cache_bytes")
            return {name: health[name] for name in names if name in health}
        await asyncio.sleep(0.5)
