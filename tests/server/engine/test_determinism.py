"""The same request gives the same answer, whoever else is served, comes and goes, whatever is
cached, in this process and the next: through the engine, on the demo model.

With `--deterministic` exactly, log probabilities included; tests/model/test_decoder.py has the same
for the default mode, where tokens may differ at ties.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.sampling import SamplingParams
from server.bench.workloads import words
from server.engine import Engine, EngineSettings, GenerationRequest, GrammarSpec, Thinking
from server.engine.events import ContentDelta, Failed, Finished, ReasoningDelta, Started

SAMPLINGS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=1.5, top_p=0.95, top_k=20, seed=2),
    SamplingParams(temperature=0.8, presence_penalty=1.5, min_p=0.02, seed=3),
    SamplingParams(temperature=0.0, repetition_penalty=1.2, logit_bias={400: 2.0}),
)
SYSTEMS = ("", "You are terse.", f"You are an agent. {words(300, 1)}")
SAID = ("What is the capital of France?", "Count from 3 to 9.", "And Italy?", words(40, 2))
GRAMMARS = (None, None, None, GrammarSpec("regex", "[a-z ]{5,30}", "structured_outputs"))
SMALL_CACHE = 600_000  # bytes: about four prompts of these
# By hand more: MXSERVE_DETERMINISM_EXAMPLES=1000.
EXAMPLES = int(os.environ.get("MXSERVE_DETERMINISM_EXAMPLES", "8"))
THINKING = (Thinking(False), Thinking(), Thinking(True, 8))


@dataclass(frozen=True)
class Ask:
    """A request of a crowd: it is sent once `joins` pieces of text were told to anybody, and its
    reader leaves after `leaves` of its own."""

    system: int
    said: tuple[int, ...]
    sampling: int
    thinking: int
    grammar: int
    tenant: str
    n: int
    logprobs: int | None
    max_tokens: int
    joins: int
    leaves: int | None

    @property
    def request(self) -> GenerationRequest:
        messages: list[dict[str, Any]] = []
        if SYSTEMS[self.system]:
            messages.append({"role": "system", "content": SYSTEMS[self.system]})
        for number, said in enumerate(self.said):
            if number:
                messages.append({"role": "assistant", "content": "Well."})
            messages.append({"role": "user", "content": SAID[said]})
        return GenerationRequest(
            messages,
            SAMPLINGS[self.sampling],
            thinking=THINKING[self.thinking],
            grammar=GRAMMARS[self.grammar],
            tenant=self.tenant,
            n=self.n,
            logprobs=self.logprobs,
            max_tokens=self.max_tokens,
        )


asks = st.builds(
    Ask,
    system=st.integers(0, len(SYSTEMS) - 1),
    said=st.lists(st.integers(0, len(SAID) - 1), min_size=1, max_size=3).map(tuple),
    sampling=st.integers(0, len(SAMPLINGS) - 1),
    thinking=st.integers(0, len(THINKING) - 1),
    grammar=st.integers(0, len(GRAMMARS) - 1),
    tenant=st.sampled_from(["a", "b"]),
    n=st.sampled_from([1, 1, 1, 2, 3]),
    logprobs=st.sampled_from([None, None, 2]),
    max_tokens=st.integers(1, 24),
    joins=st.integers(0, 40),
    leaves=st.one_of(st.none(), st.none(), st.integers(0, 20)),
)


@dataclass
class Answer:
    """What one choice said: text, thought, log probabilities, and why it ended (None: it was left
    before)."""

    content: str = ""
    reasoning: str = ""
    logprobs: list[tuple[int, float]] = field(default_factory=list)
    reason: str | None = None


@dataclass
class Crowd:
    """Asks on one engine; `pieces` of text came to all of them, `open` are under way. moved: one
    of the two changed."""

    engine: Engine
    pieces: int = 0
    open: int = 0
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def ask(self, ask: Ask) -> list[Answer]:
        async with self.moved:
            await self.moved.wait_for(lambda: self.pieces >= ask.joins or not self.open)
        await self._move(opened=1)
        try:
            return await self._read(ask)
        finally:
            await self._move(opened=-1)

    async def _move(self, pieces: int = 0, opened: int = 0) -> None:
        async with self.moved:
            self.pieces += pieces
            self.open += opened
            self.moved.notify_all()

    async def _read(self, ask: Ask) -> list[Answer]:
        answers = [Answer() for _ in range(ask.n)]
        left = ask.leaves
        stream = await self.engine.submit(ask.request)
        async for event in stream:
            assert not isinstance(event, Failed), event
            if isinstance(event, ContentDelta):
                answers[event.choice].content += event.text
                answers[event.choice].logprobs += [(t.id, t.logprob) for t in event.logprobs]
            elif isinstance(event, ReasoningDelta):
                answers[event.choice].reasoning += event.text
            elif isinstance(event, Finished):
                answers[event.choice].reason = event.reason
            if isinstance(event, (ContentDelta, ReasoningDelta)):
                await self._move(pieces=1)
                left = None if left is None else left - 1
            if left is not None and left <= 0 and not isinstance(event, Started):
                stream.cancel()
        return answers


class Serving:
    """An engine on a loop of its own, for several examples."""

    def __init__(self, **settings: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = Engine(EngineSettings(max_batch=6, max_queue=99, **settings))
        self._loop.run_until_complete(self._engine.start())
        self.known: dict[Ask, list[Answer]] = {}

    def answers(self, some: Sequence[Ask]) -> list[list[Answer]]:
        """The answers to all of `some`, as a crowd."""

        async def all_of_them() -> list[list[Answer]]:
            crowd = Crowd(self._engine)
            return await asyncio.gather(*(crowd.ask(ask) for ask in some))

        return self._loop.run_until_complete(asyncio.wait_for(all_of_them(), 120))

    def alone(self, ask: Ask) -> list[Answer]:
        """The answer to `ask` by itself, read to its end; asked once."""
        plain = replace(ask, leaves=None)
        if plain not in self.known:
            (self.known[plain],) = self.answers([plain])
        return self.known[plain]

    def stop(self) -> None:
        self._loop.run_until_complete(self._engine.stop(5))
        self._loop.close()
        worker = self._engine._worker
        assert worker is not None
        assert not worker.accounts_broken, "slots or bytes did not add up"


@pytest.fixture(scope="module")
def serving() -> Iterator[Callable[..., Serving]]:
    """Starts engines; all are stopped after the module."""
    started: list[Serving] = []

    def start(**settings: Any) -> Serving:
        started.append(Serving(**settings))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="module")
def cold(serving: Callable[..., Serving]) -> Serving:
    """Nothing is cached there."""
    return serving(prompt_cache_bytes=0, deterministic=True)


@pytest.fixture(scope="module", params=[SMALL_CACHE, None], ids=["evicting", "roomy"])
def crowded(serving: Callable[..., Serving], request: pytest.FixtureRequest) -> Serving:
    return serving(prompt_cache_bytes=request.param, deterministic=True)


def assert_same(ask: Ask, got: list[Answer], wanted: list[Answer]) -> None:
    for one, whole in zip(got, wanted, strict=True):
        if one.reason is not None:
            assert one == whole, ask
        else:  # it was left: what came is how the whole one begins
            assert whole.content.startswith(one.content), ask
            assert whole.reasoning.startswith(one.reasoning), ask
            assert whole.logprobs[: len(one.logprobs)] == one.logprobs, ask


@given(some=st.lists(asks, min_size=1, max_size=6))
@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_deterministic_is_exact_in_any_company(
    cold: Serving, crowded: Serving, some: list[Ask]
) -> None:
    """Each is asked twice: what the first left in the cache serves the second."""
    for ask, got in zip(some * 2, crowded.answers(some * 2), strict=True):
        assert_same(ask, got, cold.alone(ask))


def test_deterministic_is_exact_in_the_next_process(cold: Serving, tmp_path: Path) -> None:
    some = [
        Ask(2, (0, 1), sampling, thinking, 0, "a", 1, 2, 24, 0, None)
        for sampling in range(len(SAMPLINGS))
        for thinking in (0, 1)
    ]
    for _ in range(2):
        one = Serving(deterministic=True, disk_cache=tmp_path)
        answers = one.answers(some)
        one.stop()
        for ask, got in zip(some, answers, strict=True):
            assert_same(ask, got, cold.alone(ask))
    assert list(tmp_path.rglob("*.state.safetensors")), "nothing was kept for the next process"
