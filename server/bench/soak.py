"""Many streams for minutes, some of them hung up on: nothing lost, nothing doubled, nothing leaked.

Knows what to ask, the reference answers and how two texts can differ. Nothing of how a server is
started or of tables. Each request is seeded, so its answer is known from having been asked alone.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from server.bench.client import BenchError
from server.bench.streams import Body, Stream, StreamClient, together
from server.bench.workloads import words

HANG_UPS = 0.3
SAMPLE_S = 2.0
IDLE_LIMIT_S = 60.0
REQUEST_LIMIT_S = 300.0
LONGEST_SLIP = 40
# What memory may grow between the second and the last quarter: noise of an allocator.
GROWTH, GROWTH_BYTES = 1.1, 16 << 20

Verdict = Literal["same", "other words", "lost", "doubled"]


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the server: seconds since the start, bytes (None: it does not say)."""

    at_s: float
    rss: int | None
    active: int | None


@dataclass(slots=True)
class Tally:
    """What came of the requests. other_words: whole answers that took another turn somewhere, as
    ties between tokens allow; lost, doubled: text missing or twice."""

    whole: int = 0
    hung_up: int = 0
    same: int = 0
    other_words: int = 0
    lost: int = 0
    doubled: int = 0
    wrong_length: int = 0
    refused: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    examples: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Soak:
    """A finished soak. idle: active and queued requests and slots the server counts at the end,
    after all have gone; readings: memory over time."""

    streams: int
    seconds: float
    tally: Tally
    readings: Sequence[Reading]
    idle: Mapping[str, Any]

    @property
    def failures(self) -> list[str]:
        """Why this soak did not pass; empty when it did."""
        found = [
            f"{count} answers {what}"
            for count, what in (
                (self.tally.lost, "lost text"),
                (self.tally.doubled, "have text twice"),
                (self.tally.wrong_length, "have another length than their reference"),
            )
            if count
        ]
        if self.tally.errors:
            found.append(f"{len(self.tally.errors)} requests failed, as {self.tally.errors[0]}")
        if not self.tally.whole:
            found.append("no answer came to its end")
        found += [
            f"{name} is {self.idle[name]} at the end"
            for name in ("active", "queued")
            if self.idle.get(name)
        ]
        for name, growth in (
            ("resident", self.growth(lambda reading: reading.rss)),
            ("active", self.growth(lambda reading: reading.active)),
        ):
            if growth is not None and growth[1] > GROWTH * growth[0] + GROWTH_BYTES:
                found.append(f"{name} memory grew from {growth[0]:,} to {growth[1]:,} bytes")
        return found

    def growth(self, pick: Callable[[Reading], int | None]) -> tuple[int, int] | None:
        """Medians of the second and the last quarter of the readings, bytes: flat after warm-up
        means that they are alike. None with too few readings."""
        values = [value for reading in self.readings if (value := pick(reading)) is not None]
        quarter = len(values) // 4
        if quarter < 2:
            return None
        middle = sorted(values[quarter : 2 * quarter])[quarter // 2]
        return middle, sorted(values[-quarter:])[quarter // 2]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "streams": self.streams,
            "seconds": self.seconds,
            "tally": asdict(self.tally),
            "rss_bytes": self.growth(lambda reading: reading.rss),
            "active_bytes": self.growth(lambda reading: reading.active),
            "idle": dict(self.idle),
            "failures": self.failures,
            "readings": [asdict(reading) for reading in self.readings],
        }


def requests(count: int, seed: int, banned: Sequence[int]) -> list[dict[str, Any]]:
    """`count` different requests: prompts of 5 to 300 words, 8 to 96 tokens of answer, greedy and
    sampled, each with a seed of its own. `banned`: tokens that would end an answer early."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        text = words(draw.choice((5, 20, 80, 300)), seed + number)
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": draw.randint(8, 96),
            "temperature": draw.choice((0.0, 0.7, 1.0)),
            "seed": draw.randrange(2**31),
            "chat_template_kwargs": {"enable_thinking": draw.random() < 0.5},
        }
        if banned:
            body["logit_bias"] = {str(token): -100 for token in banned}
        made.append(body)
    return made


def compare(text: str, reference: str) -> Verdict:
    """How an answer differs from what the same request got alone.

    Behind the first difference, text that goes on as the reference does some characters later was
    lost before, one that goes on as the reference did some characters earlier came twice; so did
    text that only ends too early or too late. Anything else is another choice of words.
    """
    if text == reference:
        return "same"
    pairs = enumerate(zip(text, reference, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(text), len(reference)))
    rest = text[place:]
    if not rest:
        return "lost"
    if place == len(reference):
        return "doubled"
    for slip in range(1, LONGEST_SLIP + 1):
        if _goes_on(rest, reference[place + slip :]):
            return "lost"
        if slip <= place and _goes_on(rest, reference[place - slip :]):
            return "doubled"
    return "other words"


def _goes_on(text: str, wanted: str) -> bool:
    """Whether the two are alike for long enough to be no accident, and to the end of one."""
    length = min(len(text), len(wanted))
    return length >= 12 and text[:length] == wanted[:length]


async def references(client: StreamClient, bodies: Sequence[Body]) -> list[Stream]:
    """Each request's answer, one at a time. Raises BenchError when one fails."""
    found = []
    for body in bodies:
        answer = await client.ask(body, limit_s=REQUEST_LIMIT_S)
        if answer.error:
            raise BenchError(f"a reference answer failed: {answer.error}")
        found.append(answer)
    return found


async def soak(
    client: StreamClient,
    bodies: Sequence[Body],
    answers: Sequence[Stream],
    *,
    streams: int,
    seconds: float,
    pid: int | None,
    seed: int,
    progress: Callable[[str], None] = lambda _: None,
) -> Soak:
    """`streams` clients at once ask `bodies` at random for `seconds` and check each answer; three
    in ten hang up somewhere."""
    tally, readings = Tally(), []
    start = time.perf_counter()
    end = start + seconds

    async def one_client(number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        while time.perf_counter() < end:
            chosen = draw.randrange(len(bodies))
            pieces = len(answers[chosen].arrivals)
            leaving = draw.randint(0, pieces) if draw.random() < HANG_UPS else None
            got = await client.ask(bodies[chosen], hang_up=_after(leaving), limit_s=REQUEST_LIMIT_S)
            judge(tally, got, answers[chosen])
            if got.status == 429:
                await asyncio.sleep(1.0)

    async def look() -> None:
        while time.perf_counter() < end:
            readings.append(await _reading(client, pid, start))
            if len(readings) % 15 == 0:
                progress(f"{readings[-1].at_s:.0f} s, {tally.whole} answers")
            await asyncio.sleep(SAMPLE_S)

    await together([look(), *(one_client(number) for number in range(streams))])
    idle = await _idle(client)
    readings.append(await _reading(client, pid, start))
    return Soak(streams, time.perf_counter() - start, tally, readings, idle)


def _after(pieces: int | None) -> Callable[[Stream], bool]:
    return lambda stream: pieces is not None and len(stream.arrivals) >= pieces


def judge(tally: Tally, got: Stream, reference: Stream) -> None:
    """Counts one answer. Of one that was hung up on, the text so far must be the reference's."""
    tally.tokens += len(got.arrivals)
    if got.status == 429:
        tally.refused += 1
        return
    if got.error:
        tally.errors.append(got.error)
        return
    expected = reference.text
    if got.cut:
        tally.hung_up += 1
        expected = expected[: len(got.text)]
    else:
        tally.whole += 1
    verdict = compare(got.text, expected)
    if verdict == "same":
        tally.same += 1
    elif verdict == "other words":
        tally.other_words += 1
    elif verdict == "lost":
        tally.lost += 1
    else:
        tally.doubled += 1
    if not got.cut and verdict == "same" and got.completion_tokens != reference.completion_tokens:
        tally.wrong_length += 1
    if verdict != "same" and len(tally.examples) < 10:
        tally.examples.append({"verdict": verdict, "got": got.text, "reference": reference.text})


async def _reading(client: StreamClient, pid: int | None, start: float) -> Reading:
    memory = (await client.health()).get("memory") or {}
    rss = None if pid is None else await asyncio.to_thread(resident_bytes, pid)
    return Reading(time.perf_counter() - start, rss, memory.get("active_bytes"))


async def _idle(client: StreamClient) -> dict[str, Any]:
    """The server's health once nothing is active, or after a minute as it is then."""
    deadline = time.perf_counter() + IDLE_LIMIT_S
    while True:
        health = await client.health()
        busy = health.get("active") or health.get("queued")
        if not busy or time.perf_counter() > deadline:
            names = ("status", "active", "queued", "slots", "memory", "cache_bytes")
            return {name: health[name] for name in names if name in health}
        await asyncio.sleep(0.5)


def resident_bytes(pid: int) -> int | None:
    """Memory a process holds, as `ps` says; None when it is gone."""
    command = ["ps", "-o", "rss=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    text = done.stdout.strip()
    return int(text) * 1024 if text.isdigit() else None
