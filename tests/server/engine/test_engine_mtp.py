"""The engine with guesses on the demo: the same answers as without, cut, closed and reused in the
midst of a step, and counts of how it went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from model.loading import load_model
from model.sampling import SamplingParams
from server.engine import GenerationRequest, Thinking
from server.engine.events import ContentDelta, Finished, ReasoningDelta
from server.engine.prompt_cache import PromptCache
from tests.server.engine.test_engine_on_demo import Bench, assert_same

GREEDY = SamplingParams(temperature=0.0)
DRAWN = SamplingParams(temperature=1.0, top_k=20, top_p=0.95, seed=5)
ASKED = [
    GenerationRequest([{"role": "user", "content": "Count from 3 to 12."}], GREEDY),
    GenerationRequest([{"role": "user", "content": "Count from 3 to 12."}], GREEDY, stop=("9",)),
    GenerationRequest([{"role": "user", "content": "Count from 2 to 30."}], DRAWN),
    GenerationRequest([{"role": "user", "content": "What is 17 + 25?"}], DRAWN, n=3),
    *(
        GenerationRequest(
            [{"role": "user", "content": "What is 17 + 25 + 31? Think carefully."}],
            GREEDY,
            thinking=Thinking(True, budget),
        )
        for budget in (3, 4, 5, 6)
    ),
]
OFF = Thinking(False)


@pytest.fixture(scope="module")
def benches() -> Iterator[tuple[Bench, Bench]]:
    pair = Bench(load_model(None, mtp_depth=0)), Bench(load_model(None, mtp_depth=2))
    yield pair
    for bench in pair:
        bench.model = None


def told(events: list[Any]) -> list[Any]:
    """What the client sees: text by choice, why it ended, what it used."""
    found: list[Any] = []
    for choice in range(3):
        for kind in (ReasoningDelta, ContentDelta):
            parts = [e.text for e in events if isinstance(e, kind) and e.choice == choice]
            found.append("".join(parts))
    ends = [e for e in events if isinstance(e, Finished)]
    ends.sort(key=lambda end: end.choice)
    return [*found, [(end.reason, end.stop, end.usage) for end in ends]]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 40])
def test_the_client_sees_the_same(benches: tuple[Bench, Bench], most: int) -> None:
    for asked in ASKED:
        thinking = asked.thinking if asked.thinking.budget else OFF
        request = replace(asked, max_tokens=most + (30 if thinking.budget else 0))
        request = replace(request, thinking=thinking)
        seen = [told(bench.run(request, PromptCache(1 << 24), [512])[0]) for bench in benches]
        assert seen[0] == seen[1], request


def test_a_turn_that_speculated_is_reused_and_goes_on_as_a_cold_one(
    benches: tuple[Bench, Bench],
) -> None:
    plain, guessing = benches
    cache, messages = PromptCache(1 << 30), []
    reused = 0
    for text in ("Count from 3 to 9.", "What is the capital of France?", "And Italy?"):
        messages.append({"role": "user", "content": text})
        request = GenerationRequest(list(messages), GREEDY, thinking=OFF, max_tokens=60)
        prompt = guessing.encode(request).tokens
        events, warm = guessing.run(request, cache, [64], turns=guessing.turns)
        _, cold = plain.run(request, PromptCache(0), [len(prompt)])
        assert_same(plain.model, prompt, warm, cold)
        cache.check()
        (finished,) = [e for e in events if isinstance(e, Finished)]
        assert finished.usage.cached_tokens >= reused
        reused = len(prompt) + len(warm) - 1
        content = "".join(e.text for e in events if isinstance(e, ContentDelta))
        messages.append({"role": "assistant", "content": content})
    assert finished.usage.cached_tokens > len(prompt) // 2


def test_guesses_are_counted(benches: tuple[Bench, Bench]) -> None:
    plain, guessing = benches
    before = guessing.model.guesses
    request = replace(ASKED[0], thinking=OFF, max_tokens=40)
    guessing.run(request, PromptCache(0), [512])
    counts = {name: count - before[name] for name, count in guessing.model.guesses.items()}
    assert counts["drafted"] == 2 * counts["steps"] > 0
    assert 0 < counts["accepted"] <= counts["drafted"]
    assert plain.model.guesses == {}
