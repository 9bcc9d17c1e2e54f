"""The embedded demo through the official SDK, on a real port."""

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def client(live_server):
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, messages=FRANCE, **fields):
    fields = {"temperature": 0, "model": "demo", **fields}
    completion = client.chat.completions.create(messages=messages, **fields)
    ChatCompletion.model_validate_json(completion.model_dump_json(), strict=True)
    return completion


def streamed(client, messages=FRANCE, **fields):
    fields = {"temperature": 0, "model": "demo", **fields}
    options = {"include_usage": True}
    parts = list(
        client.chat.completions.create(
            messages=messages, stream=True, stream_options=options, **fields
        )
    )
    for part in parts:
        ChatCompletionChunk.model_validate_json(part.model_dump_json(), strict=True)
    return parts


def text_of(parts, name="content"):
    return "".join(
        getattr(choice.delta, name, None) or "" for part in parts for choice in part.choices
    )


def test_capital_whole_and_streamed(client):
    whole = ask(client)
    assert "Paris" in whole.choices[0].message.content
    parts = streamed(client)
    assert text_of(parts) == whole.choices[0].message.content
    assert text_of(parts, "reasoning_content") == whole.choices[0].message.reasoning_content
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens


def test_async(live_server):
    async def both():
        url = f"{live_server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(stream):
                answer: Any = await client.chat.completions.create(
                    model="demo", messages=FRANCE, temperature=0, stream=stream
                )
                if not stream:
                    return answer.choices[0].message.content
                return text_of([part async for part in answer])

            return await asyncio.gather(one(False), one(True), one(True))

    answers = asyncio.run(both())
    assert len(set(answers)) == 1
    assert "Paris" in answers[0]


def test_effort_none_does_not_think(client):
    answer = ask(client, reasoning_effort="none")
    assert "Paris" in answer.choices[0].message.content
    assert not hasattr(answer.choices[0].message, "reasoning_content")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
def test_efforts_think(client, effort):
    answer = ask(client, reasoning_effort=effort)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_a_spent_budget_closes_the_thought(client):
    answer = ask(client, extra_body={"thinking_budget": 3})
    details = answer.usage.completion_tokens_details
    assert details.thinking_cut
    assert "I have thought long enough" in answer.choices[0].message.reasoning_content
    assert "</think>" not in answer.choices[0].message.content
    assert answer.choices[0].message.content


def test_token_limit(client):
    answer = ask(client, max_completion_tokens=3, reasoning_effort="none")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_stop_string(client):
    answer = ask(client, stop=["Paris"], reasoning_effort="none")
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" not in answer.choices[0].message.content
    assert answer.choices[0].message.content
    assert text_of(streamed(client, stop="Paris", reasoning_effort="none")) == (
        answer.choices[0].message.content
    )


def test_a_seed_repeats(client):
    def said(seed):
        fields = {"temperature": 2, "top_p": 1, "seed": seed, "max_tokens": 32}
        message = ask(client, [{"role": "user", "content": "Zq!"}], **fields).choices[0].message
        return message.content, getattr(message, "reasoning_content", "")

    answers = [said(seed) for seed in range(4)]
    assert [said(seed) for seed in range(4)] == answers
    assert len(set(answers)) > 1


def test_choices(client):
    answer = ask(client, n=3, reasoning_effort="none")
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all("Paris" in choice.message.content for choice in answer.choices)


CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Norway": "Oslo",
    "Egypt": "Cairo", "Peru": "Lima", "Kenya": "Nairobi", "Cuba": "Havana", "Chile": "Santiago",
}  # fmt: skip


@pytest.mark.parametrize("effort", ["none", "low"])
@pytest.mark.parametrize("echo", [False, True], ids=["reasoning dropped", "reasoning sent back"])
def test_turns_two_to_ten_prefill_only_what_is_new(client, effort, echo):
    """All tokens of the turns before, answers included, come from the cache."""
    messages: list[Any] = [{"role": "system", "content": f"You are a helper. {effort} {echo}"}]
    before = 0
    for place, capital in CAPITALS.items():
        messages.append({"role": "user", "content": f"What is the capital of {place}?"})
        answer = ask(client, messages, reasoning_effort=effort)
        usage, message = answer.usage, answer.choices[0].message
        assert capital in message.content
        assert usage.prompt_tokens_details.cached_tokens >= before
        before = usage.total_tokens
        messages.append({"role": "assistant", "content": message.content})
        if echo and effort != "none":
            messages[-1]["reasoning_content"] = message.reasoning_content


def reused(answer):
    """Tokens from the cache, as the usage and the server's own field agree."""
    tokens = answer.usage.prompt_tokens_details.cached_tokens
    assert answer.x_mxserve["cache"]["reused_tokens"] == tokens
    return tokens


def test_keys_share_no_cached_prompt(live_server):
    """Nor can one tell whether another's prompt is known."""
    messages: list[Any] = [{"role": "user", "content": "What is the capital of Peru, please?"}]
    seen = []
    for key in ("a", "b", "a"):
        url = f"{live_server.url}/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            answer: Any = ask(client, messages)
            seen.append((reused(answer) > 0, answer.x_mxserve["cache"]["common_tokens"] > 0))
    assert seen == [(False, False), (False, False), (True, True)]


def test_a_billing_header_costs_nothing(client):
    for nonce in ("eb6c6", "1c8b4"):
        header = f"x-anthropic-billing-header: cc_version=2.1.197.84c; cch={nonce};"
        system = [{"type": "text", "text": text} for text in (header, "You are a guide to Kenya.")]
        messages: list[Any] = [{"role": "system", "content": system}, *FRANCE]
        answer = ask(client, messages)
    cache = answer.x_mxserve["cache"]
    assert cache["common_tokens"] == answer.usage.prompt_tokens
    assert cache["diverged"] is None
    assert reused(answer) > answer.usage.prompt_tokens / 2


def test_an_edit_is_told(client):
    messages: list[Any] = [
        {"role": "system", "content": "You are a guide to all capitals."},
        {"role": "user", "content": "What is the capital of Norway?"},
    ]
    assert ask(client, messages).x_mxserve["cache"]["reused_tokens"] == 0
    messages[1] = {"role": "user", "content": "What is the capital of Japan?"}
    raw = client.chat.completions.with_raw_response.create(
        messages=messages, model="demo", temperature=0
    )
    assert raw.parse().x_mxserve["cache"]["diverged"] == {"message": 1, "change": "user message"}
    assert raw.headers["x-mxserve-cache"].endswith('message=1, change="user message"')
    assert raw.headers["x-mxserve-cache"].startswith(f"reused={reused(raw.parse())}, ")
    assert reused(raw.parse()) > 0


def test_a_tool_is_called_and_its_result_used(client):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    answer = ask(client, messages, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert "Paris" in call.function.arguments
    parts = streamed(client, messages, tools=[WEATHER])
    deltas = [d for p in parts for c in p.choices for d in c.delta.tool_calls or []]
    assert deltas[0].id
    assert deltas[0].function.name == "get_weather"
    assert all(delta.id is None and delta.function.name is None for delta in deltas[1:])
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    messages += [
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'},
    ]
    told = ask(client, messages, tools=[WEATHER])
    assert told.choices[0].finish_reason == "stop"
    assert told.choices[0].message.content


def test_models(client):
    [card] = client.models.list().data
    assert client.models.retrieve(card.id).id == card.id


def test_errors_are_the_sdks_own(client):
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="demo", input="x")
    long: list[Any] = [{"role": "user", "content": "word " * 200_000}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is") as overflow:
        ask(client, long)
    assert overflow.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="maximum context length is"):
        streamed(client, long)


def test_a_bias_outside_the_vocabulary_is_refused(client):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, logit_bias={"200000": 5})
    assert refused.value.body["param"] == "logit_bias"  # type: ignore[index]
    assert ask(client, logit_bias={"5": -100}).choices[0].message.content
