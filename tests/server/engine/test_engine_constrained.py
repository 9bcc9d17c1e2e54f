"""Constrained answers, log probabilities and raw prompts, through the engine on the demo model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import pytest

from model.sampling import SamplingParams
from server.engine import (
    Engine,
    EngineSettings,
    GenerationRequest,
    GrammarSpec,
    Thinking,
    ToolChoice,
)
from server.engine.errors import InvalidRequest
from server.engine.events import (
    ContentDelta,
    Event,
    Failed,
    Finished,
    PromptLogprobs,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)

GREEDY = SamplingParams(temperature=0.0)
WILD = SamplingParams(temperature=2.0, seed=5)  # says anything that it may

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@dataclass
class Told:
    events: list[Event] = field(default_factory=list)

    def _joined(self, kind: type[ContentDelta] | type[ReasoningDelta], choice: int) -> str:
        return "".join(e.text for e in self.events if isinstance(e, kind) and e.choice == choice)

    def content(self, choice: int = 0) -> str:
        return self._joined(ContentDelta, choice)

    def reasoning(self, choice: int = 0) -> str:
        return self._joined(ReasoningDelta, choice)

    def calls(self, choice: int = 0) -> list[tuple[str, str]]:
        calls: dict[int, list[str]] = {}
        for event in self.events:
            if isinstance(event, ToolCallDelta) and event.choice == choice:
                call = calls.setdefault(event.index, ["", ""])
                call[0] += event.name or ""
                call[1] += event.arguments
        return [(name, arguments) for name, arguments in calls.values()]

    def finished(self, choice: int = 0) -> Finished:
        return next(e for e in self.events if isinstance(e, Finished) and e.choice == choice)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [t for e in self.events if isinstance(e, ContentDelta) for t in e.logprobs]


Test = Callable[[Engine], Coroutine[Any, Any, None]]


@pytest.fixture(scope="module")
def run() -> Any:
    """Runs a test on an engine that all tests of this file share."""
    loop = asyncio.new_event_loop()
    engine = Engine(EngineSettings(max_batch=8))
    loop.run_until_complete(engine.start())

    def run(test: Test) -> None:
        loop.run_until_complete(asyncio.wait_for(test(engine), 120))

    yield run
    loop.run_until_complete(engine.stop(5))
    loop.close()


def request(text: str, **fields: Any) -> GenerationRequest:
    fields = {"sampling": GREEDY, "thinking": Thinking(False), "max_tokens": 400, **fields}
    return GenerationRequest(messages=[{"role": "user", "content": text}], **fields)


async def ask(engine: Engine, asked: GenerationRequest) -> Told:
    told = Told()
    async for event in await engine.submit(asked):
        assert not isinstance(event, Failed), event
        told.events.append(event)
    return told


def valid_call(name: str, arguments: str) -> None:
    tool = {"get_weather": WEATHER, "get_time": CLOCK}[name]
    jsonschema.validate(json.loads(arguments), tool["function"]["parameters"])


@pytest.mark.parametrize("sampling", [GREEDY, WILD])
@pytest.mark.parametrize("thinking", [Thinking(False), Thinking(True, 12)])
def test_a_required_call_is_always_well_formed(
    run: Any, sampling: SamplingParams, thinking: Thinking
) -> None:
    async def test(engine: Engine) -> None:
        choice = ToolChoice("required", parallel=False)
        fields = {"tools": [WEATHER, CLOCK], "tool_choice": choice, "n": 3, "thinking": thinking}
        told = await ask(engine, request("Hello.", sampling=sampling, **fields))
        for index in range(3):
            if told.finished(index).reason == "length":
                continue
            assert told.finished(index).reason == "tool_calls"
            ((name, arguments),) = told.calls(index)
            valid_call(name, arguments)
            assert told.content(index) == ""

    run(test)


def test_a_named_call_is_that_tools(run: Any) -> None:
    async def test(engine: Engine) -> None:
        choice = ToolChoice("required", names=("get_time",), parallel=False)
        asked = request("What is the weather in Paris?", tools=[WEATHER, CLOCK], tool_choice=choice)
        assert (await ask(engine, asked)).calls() == [("get_time", "{}")]

    run(test)


def test_with_tool_choice_none_there_is_no_call(run: Any) -> None:
    async def test(engine: Engine) -> None:
        tools = [WEATHER]
        asked = request("What is the weather in Paris?", tools=tools)
        called = await ask(engine, asked)
        assert called.finished().reason == "tool_calls"
        asked = request(
            "What is the weather in Paris?", tools=tools, tool_choice=ToolChoice("none")
        )
        told = await ask(engine, asked)
        assert told.calls() == []
        assert told.finished().reason in ("stop", "length")
        cached = told.finished().usage.cached_tokens
        assert cached >= called.finished().usage.prompt_tokens - 16, "the prefix stays"

    run(test)


@pytest.mark.parametrize("sampling", [GREEDY, WILD])
@pytest.mark.parametrize("thinking", [Thinking(False), Thinking(True, 12), Thinking()])
def test_an_answer_in_a_schema_validates(
    run: Any, sampling: SamplingParams, thinking: Thinking
) -> None:
    async def test(engine: Engine) -> None:
        grammar = GrammarSpec("json_schema", SCHEMA, "response_format")
        asked = request("Hello.", sampling=sampling, thinking=thinking, grammar=grammar, n=2)
        told = await ask(engine, asked)
        for index in range(2):
            if told.finished(index).reason == "stop":
                jsonschema.validate(json.loads(told.content(index)), SCHEMA)
            if thinking.enabled:
                assert told.reasoning(index)

    run(test)


@pytest.mark.parametrize(
    ("kind", "value", "legal"),
    [
        ("choice", ["yes", "no", "perhaps"], {"yes", "no", "perhaps"}),
        ("regex", "[ab]{3}", {a + b + c for a in "ab" for b in "ab" for c in "ab"}),
        ("lark", 'start: "x" | "y"', {"x", "y"}),
    ],
)
def test_other_grammars_hold_in_one_batch(run: Any, kind: Any, value: Any, legal: set[str]) -> None:
    async def test(engine: Engine) -> None:
        plain = request("Count from 1 to 10.")
        alone = await ask(engine, plain)
        grammar = GrammarSpec(kind, value, "guided")
        told, beside = await asyncio.gather(
            ask(engine, request("Hello.", sampling=WILD, grammar=grammar, n=4)),
            ask(engine, plain),
        )
        assert {told.content(index) for index in range(4)} <= legal
        assert beside.content() == alone.content()

    run(test)


def test_what_cannot_be_enforced_is_refused_and_named(run: Any) -> None:
    async def test(engine: Engine) -> None:
        bad = GrammarSpec("regex", "(", "structured_outputs.regex")
        with pytest.raises(InvalidRequest) as caught:
            await engine.submit(request("Hello.", grammar=bad))
        assert caught.value.param == "structured_outputs.regex"

    run(test)


@pytest.mark.parametrize("thinking", [Thinking(False), Thinking()])
def test_log_probabilities_are_those_of_the_content(run: Any, thinking: Thinking) -> None:
    async def test(engine: Engine) -> None:
        asked = request("What is the capital of France?", thinking=thinking, logprobs=5)
        told = await ask(engine, asked)
        assert b"".join(t.bytes for t in told.logprobs).decode() == told.content()
        for item in told.logprobs:
            assert item.logprob <= 0
            assert len(item.top) == 5
            assert [t.logprob for t in item.top] == sorted(
                (t.logprob for t in item.top), reverse=True
            )
            assert item.id == item.top[0].id, "greedy"
            assert item.logprob == item.top[0].logprob
        assert (await ask(engine, request("What is the capital of France?"))).logprobs == []

    run(test)


def test_a_stop_string_has_no_log_probabilities(run: Any) -> None:
    async def test(engine: Engine) -> None:
        asked = request("Count from 1 to 20.", logprobs=0, stop=("7",))
        told = await ask(engine, asked)
        assert told.finished().stop == "7"
        assert told.finished().reason == "stop"
        assert "7" not in told.content()
        assert "7" not in "".join(t.token for t in told.logprobs)
        assert "6" in "".join(t.token for t in told.logprobs)

    run(test)


def test_a_raw_prompt_is_continued_and_scored(run: Any) -> None:
    async def test(engine: Engine) -> None:
        chat = await engine.render(request("What is the capital of France?"))
        raw = GenerationRequest(
            messages=[],
            prompt=chat.text,
            sampling=GREEDY,
            max_tokens=60,
            prompt_logprobs=2,
            logprobs=1,
        )
        told = await ask(engine, raw)
        assert (
            told.content()
            == (await ask(engine, request("What is the capital of France?"))).content()
        )
        (scores,) = [e for e in told.events if isinstance(e, PromptLogprobs)]
        assert len(scores.items) == len(chat.tokens) == told.finished().usage.prompt_tokens
        assert scores.items[0] is None
        for token, item in zip(chat.tokens[1:], scores.items[1:], strict=True):
            assert item is not None
            assert (item.id, len(item.top)) == (token, 2)
        by_ids = GenerationRequest(
            messages=[], prompt=tuple(chat.tokens), sampling=GREEDY, max_tokens=60
        )
        assert (await ask(engine, by_ids)).content() == told.content()

    run(test)


def test_a_raw_completion_shows_its_tags(run: Any) -> None:
    async def test(engine: Engine) -> None:
        chat = await engine.render(request("What is 2 + 2?", thinking=Thinking()))
        raw = GenerationRequest(messages=[], prompt=chat.text, sampling=GREEDY, max_tokens=200)
        assert "</think>" in (await ask(engine, raw)).content()

    run(test)


def test_the_final_message_is_continued(run: Any) -> None:
    async def test(engine: Engine) -> None:
        question = {"role": "user", "content": "Count from 1 to 8."}
        whole = await ask(engine, request(question["content"]))
        half = whole.content()[: len(whole.content()) // 2].rstrip()
        asked = GenerationRequest(
            messages=[question, {"role": "assistant", "content": half}],
            sampling=GREEDY,
            continue_final=True,
            max_tokens=100,
        )
        told = await ask(engine, asked)
        assert half + told.content() == whole.content()
        assert told.reasoning() == ""

    run(test)


def test_tokens_and_text_are_each_others_inverse(run: Any) -> None:
    async def test(engine: Engine) -> None:
        text = "<|im_start|>user\nÇa va? 🙂<|im_end|>"
        tokens = await engine.tokenize(text)
        assert await engine.detokenize(tokens) == text
        assert (await engine.token_texts(tokens))[0] == "<|im_start|>"
        assert len(await engine.tokenize(text, special=False)) > len(tokens)
        with pytest.raises(InvalidRequest):
            await engine.detokenize([10**6])

    run(test)
