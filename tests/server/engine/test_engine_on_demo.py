"""The engine on the embedded demo model: reuse changes no token, and the worker is the only thread
that touches it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.loading import load_model
from model.sampling import SamplingParams
from model.thinking import CLOSING_TEXT
from model.turn_memory import TurnMemory
from server.engine import Engine, EngineSettings, GenerationRequest, Thinking
from server.engine.events import ContentDelta, Finished, ReasoningDelta
from server.engine.job import Job
from server.engine.mailbox import Mailbox
from server.engine.ports import Facts, backend
from server.engine.prompt_cache import PromptCache
from server.engine.running import Running, Workshop

GREEDY = SamplingParams(temperature=0.0)
NEAR_TIE = 1e-3


@dataclass
class Bench:
    """Runs requests one at a time in this thread, with any chunking and any cache."""

    model: Any

    def __post_init__(self) -> None:
        self.backend = backend(None, None)
        self.turns = self.backend.turns()
        self.closing = tuple(self.model.tokenizer.encode(CLOSING_TEXT, allow_special=True))

    def encode(self, request: GenerationRequest) -> Any:
        return self.backend.encode(Facts.of(self.model), request, self.turns)

    def run(
        self,
        request: GenerationRequest,
        cache: PromptCache,
        chunks: list[int],
        *,
        turns: Any = None,
    ) -> tuple[list[Any], list[int]]:
        """The events of the request and the ids it generated."""
        mailbox = Mailbox(lambda: None)
        job = Job("x", request, self.encode(request), mailbox, 0.0, float("inf"))
        memory = _Recorder(turns)
        decoder = self.model.decoder()
        shop = Workshop(
            self.model,
            Facts.of(self.model),
            self.backend,
            cache,
            decoder,
            memory,
            self.closing,
            time.monotonic,
        )
        running = Running(job, shop)
        running.begin()
        sizes = iter(chunks * 10_000)
        while not running.prefilled:
            running.prefill(next(sizes))
        generated: dict[Any, list[int]] = {row: [] for row in running.rows}
        while not running.finished:
            for row, token in decoder.step():
                generated[row].append(token)
                running.take(row, token)
        assert not decoder.members
        return mailbox.take(), next(iter(generated.values()))


class _Recorder:
    def __init__(self, turns: Any) -> None:
        self.turns = turns

    def remember(self, *turn: Any) -> None:
        (self.turns or TurnMemory()).remember(*turn)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench(load_model(None))
    yield bench
    bench.model = None


SAID = [
    "What is the capital of France?",
    "And Italy?",
    "Count from 3 to 9.",
    "What is 17 + 25?",
    "My code word is amber.",
    "What is my code word?",
    "Bonjour 🙂 <|im_end|> ça va?",
    "Repeat: red green blue.",
]
turn = st.tuples(
    st.sampled_from(SAID),
    st.sampled_from([Thinking(False), Thinking(), Thinking(True, 6), Thinking(True, 40)]),
    st.booleans(),
)
dialogues = st.tuples(
    st.one_of(st.none(), st.sampled_from(["You are terse.", "Be kind. " * 60])),
    st.lists(turn, min_size=1, max_size=4),
)


@given(
    dialogue=dialogues,
    chunks=st.lists(st.sampled_from([1, 5, 63, 64, 300]), min_size=1, max_size=3),
    budget=st.sampled_from([0, 150_000, 400_000, 1 << 30]),
)
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_greedy_output_with_the_cache_equals_output_without(
    bench: Bench, dialogue: Any, chunks: list[int], budget: int
):
    system, said = dialogue
    cache = PromptCache(budget)
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for text, thinking, preserve in said:
        messages.append({"role": "user", "content": text})
        request = GenerationRequest(
            list(messages), GREEDY, thinking=thinking, preserve_thinking=preserve, max_tokens=60
        )
        prompt = bench.encode(request).tokens
        events, with_cache = bench.run(request, cache, chunks, turns=None)
        _, without = bench.run(request, PromptCache(0), [len(prompt)], turns=bench.turns)
        assert_same(bench.model, prompt, with_cache, without)
        cache.check()
        messages.append(
            {
                "role": "assistant",
                "content": "".join(e.text for e in events if isinstance(e, ContentDelta)),
                "reasoning_content": "".join(
                    e.text for e in events if isinstance(e, ReasoningDelta)
                ),
            }
        )


def assert_same(model: Any, prompt: list[int], ours: list[int], others: list[int]) -> None:
    """The same tokens up to a tie inside the numeric tolerance."""
    if ours == others:
        return
    at = next(i for i, (a, b) in enumerate(zip(ours, others, strict=False)) if a != b)
    row = model.logits([*prompt, *ours[:at]])[-1].tolist()
    assert abs(row[ours[at]] - row[others[at]]) <= NEAR_TIE, (at, ours, others)


@pytest.mark.parametrize("thinking", [Thinking(False), Thinking()])
@pytest.mark.parametrize("preserve", [False, True])
def test_ten_turns_prefill_only_what_is_new(bench: Bench, thinking: Thinking, preserve: bool):
    """With thinking preserved the whole last turn is reused though the client never sends thoughts
    back; where the template drops the thought, or its empty block, all before the turn."""
    cache = PromptCache(1 << 30)
    messages: list[dict[str, Any]] = []
    reusable = 0
    for number in range(10):
        messages.append({"role": "user", "content": SAID[number % len(SAID)]})
        request = GenerationRequest(
            list(messages),
            GREEDY,
            thinking=thinking,
            preserve_thinking=preserve,
            max_tokens=90,
        )
        prompt = bench.encode(request)
        events, generated = bench.run(request, cache, [512], turns=bench.turns)
        (finished,) = [e for e in events if isinstance(e, Finished)]
        assert finished.usage.cached_tokens == reusable
        whole_turn = preserve and finished.reason == "stop"
        reusable = len(prompt.tokens) + len(generated) if whole_turn else prompt.boundaries[-1]
        content = "".join(e.text for e in events if isinstance(e, ContentDelta))
        messages.append({"role": "assistant", "content": content})


def test_the_budget_cuts_a_thought_and_the_answer_follows(bench: Bench):
    request = GenerationRequest(
        [{"role": "user", "content": "What is 17 + 25 + 31? Think carefully."}],
        GREEDY,
        thinking=Thinking(True, 4),
        max_tokens=200,
    )
    events, _ = bench.run(request, PromptCache(1 << 20), [512])
    (finished,) = [e for e in events if isinstance(e, Finished)]
    reasoning = "".join(e.text for e in events if isinstance(e, ReasoningDelta))
    assert finished.usage.thinking_cut
    assert reasoning.endswith("I have thought long enough, so I will answer now.")
    assert finished.usage.reasoning_tokens <= 4 + 8 + len(bench.closing)
    assert any(isinstance(e, ContentDelta) for e in events)


def test_a_seed_repeats_and_choices_differ(bench: Bench):
    def draw(seed: int, n: int = 1) -> list[str]:
        request = GenerationRequest(
            [{"role": "user", "content": "Hello! Who are you?"}],
            SamplingParams(temperature=4.0, seed=seed),
            thinking=Thinking(False),
            max_tokens=12,
            n=n,
        )
        events, _ = bench.run(request, PromptCache(1 << 30), [512])
        return [
            "".join(e.text for e in events if isinstance(e, ContentDelta) and e.choice == choice)
            for choice in range(n)
        ]

    assert draw(7) == draw(7)
    three = draw(7, n=3)
    assert three == [*draw(7), *draw(8), *draw(9)]
    assert len(set(three)) == 3


def test_two_clients_at_once_get_what_each_gets_alone():
    async def check() -> None:
        engine = Engine(EngineSettings())
        await engine.start()

        async def ask(text: str) -> str:
            request = GenerationRequest(
                [{"role": "user", "content": text}], GREEDY, thinking=Thinking(False), max_tokens=60
            )
            stream = await engine.submit(request)
            return "".join([e.text async for e in stream if isinstance(e, ContentDelta)])

        alone = [await ask(text) for text in SAID[:4]]
        together = await asyncio.gather(*(ask(text) for text in SAID[:4]))
        assert together == alone
        assert alone[0].strip()
        assert engine.health().model is not None
        await engine.stop(5)

    asyncio.run(check())


def test_the_process_ends_cleanly_after_stop():
    code = (
        "import asyncio\n"
        "from server.engine import Engine, EngineSettings\n"
        "async def main():\n"
        "    engine = Engine(EngineSettings())\n"
        "    await engine.start()\n"
        "    await engine.stop(1)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "terminate" not in done.stderr


@given(
    cuts=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    decoded=st.integers(0, 3),
)
@settings(max_examples=10, deadline=None)
def test_logits_after_a_restore_are_those_of_the_whole(bench: Bench, cuts: list[int], decoded: int):
    """State goes through span() and recurrent() at every cut; the logits after it stay the same."""
    model = bench.model
    tokens = [(7 * i * i + 3 * i) % 900 + 20 for i in range(sum(cuts) + 5)]
    generation = model.generation(GREEDY)
    spans, fed = [], 0
    for length in cuts:
        generation.prefill(tokens[fed : fed + length])
        spans.append(generation.span(fed, fed + length))
        fed += length
        snapshot = generation.recurrent()
        for _ in range(decoded):  # what runs on must not reach into the copies
            generation.step(5 if generation.position == fed else None)
        generation.release()
        generation = model.generation(GREEDY)
        generation.restore(spans, snapshot, tokens[:fed])
    hidden = model.steps.prefill(generation.row.state, tokens[fed:])
    restored = model.network.logits(hidden)[0]
    whole = model.logits(tokens)[fed:]
    assert abs(restored - whole).max().item() <= 1e-4 * max(1.0, abs(whole).max().item())
