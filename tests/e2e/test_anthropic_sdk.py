"""The embedded demo through Anthropic's own SDK, and requests recorded from Claude Code."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
THINKING: Any = {"type": "adaptive"}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
TIME: Any = {
    "name": "get_time",
    "description": "Get the time in a city",
    "input_schema": WEATHER["input_schema"],
}
STRICT = TypeAdapter(RawMessageStreamEvent)
RECORDED = Path(__file__).parent / "claude_code_request.json"


@pytest.fixture(scope="module")
def client(live_server):
    with anthropic.Anthropic(base_url=live_server.url, api_key="none", max_retries=0) as client:
        yield client


def fields_of(fields):
    return {"model": "demo", "max_tokens": 400, "extra_body": {"temperature": 0}, **fields}


def ask(client, messages=FRANCE, **fields) -> Any:
    message = client.messages.create(messages=messages, **fields_of(fields))
    Message.model_validate_json(message.model_dump_json(), strict=True)
    return message


def streamed(client, messages=FRANCE, **fields):
    """The raw events, checked, and the message that the SDK makes of them."""
    with client.messages.create(messages=messages, stream=True, **fields_of(fields)) as raw:
        events = list(raw)
    for event in events:
        STRICT.validate_json(event.model_dump_json(), strict=True)
    with client.messages.stream(messages=messages, **fields_of(fields)) as stream:
        return events, stream.get_final_message()


def kinds(message):
    return [block.type for block in message.content]


def read(message):
    """How many tokens the prompt had, and how many of them came from the cache."""
    usage = message.usage
    return usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens


def followed(message, *blocks):
    return [message.to_param(), {"role": "user", "content": list(blocks)}]


def said(text):
    return {"type": "text", "text": text}


def test_whole_and_streamed(client):
    whole = ask(client)
    assert kinds(whole) == ["text"]
    assert "Paris" in whole.content[0].text
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    events, message = streamed(client)
    assert events[0].type == "message_start"
    assert events[-1].type == "message_stop"
    assert [b.model_dump() for b in message.content] == [b.model_dump() for b in whole.content]
    assert message.usage.output_tokens == whole.usage.output_tokens
    assert read(message)[0] == read(whole)[0]


def test_thinking(client):
    whole = ask(client, thinking=THINKING)
    assert kinds(whole) == ["thinking", "text"]
    assert whole.content[0].thinking
    assert whole.content[0].signature
    assert whole.usage.output_tokens_details.thinking_tokens > 0
    _, message = streamed(client, thinking=THINKING)
    assert [b.model_dump() for b in message.content] == [b.model_dump() for b in whole.content]
    assert kinds(ask(client, thinking={"type": "disabled"})) == ["text"]


def test_a_thinking_budget(client):
    whole = ask(client, thinking={"type": "enabled", "budget_tokens": 3})
    assert "I have thought long enough" in whole.content[0].thinking
    assert "Paris" in whole.content[-1].text


def test_a_thought_that_is_not_shown(client):
    whole = ask(client, thinking={"type": "adaptive", "display": "omitted"})
    assert kinds(whole) == ["thinking", "text"]
    assert whole.content[0].thinking == ""
    assert whole.content[0].signature


def test_async(live_server):
    async def both():
        url = live_server.url
        async with anthropic.AsyncAnthropic(base_url=url, api_key="n", max_retries=0) as client:
            first = client.messages.create(messages=FRANCE, **fields_of({}))
            return await asyncio.gather(first, stream(client))

    async def stream(client):
        async with client.messages.stream(messages=FRANCE, **fields_of({})) as stream:
            return await stream.get_final_message()

    one, other = asyncio.run(both())
    assert one.content[0].text == other.content[0].text


@pytest.mark.parametrize("thinking", [THINKING, {"type": "disabled"}])
def test_count_tokens_is_exact(client, thinking):
    fields: Any = {
        "system": [said("You are a helpful assistant.")],
        "tools": [WEATHER],
        "thinking": thinking,
    }
    counted = client.messages.count_tokens(model="demo", messages=FRANCE, **fields)
    assert counted.input_tokens == read(ask(client, **fields))[0]


def test_a_round_trip_of_tools(client):
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    events, message = streamed(client, question, tools=[WEATHER])
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"city": "Oslo"})
    pieces = [
        event.delta.partial_json
        for event in events
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
    ]
    assert json.loads("".join(pieces)) == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [said("7 C and sunny")]}
    answer = ask(client, [*question, *followed(message, result)], tools=[WEATHER])
    assert answer.stop_reason == "end_turn"
    assert answer.content[-1].text
    assert read(answer)[1] >= sum(read(message)[:1]) + message.usage.output_tokens - 2


@pytest.mark.parametrize("name", ["get_weather", "get_time"])
def test_a_forced_tool(client, name):
    choice = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
    message = ask(client, tools=[WEATHER, TIME], tool_choice=choice)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [call.name for call in calls] == [name]
    assert isinstance(calls[0].input["city"], str)
    assert message.stop_reason == "tool_use"


def test_any_tool_and_none(client):
    message = ask(client, tools=[WEATHER, TIME], tool_choice={"type": "any"})
    assert message.stop_reason == "tool_use"
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    message = ask(client, question, tools=[WEATHER], tool_choice={"type": "none"})
    assert "tool_use" not in kinds(message)


@pytest.mark.parametrize("thinking", [THINKING, {"type": "disabled"}])
def test_structured_output(client, thinking):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    message = ask(client, output_config=form, thinking=thinking)
    answer = json.loads(message.content[-1].text)
    assert list(answer) == ["city"]
    assert isinstance(answer["city"], str)


def test_stop_sequences(client):
    message = ask(client, stop_sequences=["Norway", " France"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " France")
    assert message.content[0].text == "The capital of"


def test_max_tokens(client):
    message = ask(client, max_tokens=3)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


def test_more_tokens_than_the_context_has(client):
    message = ask(client, max_tokens=10_000_000, timeout=60)  # without one, the SDK itself refuses
    assert message.stop_reason == "end_turn"


def test_a_prompt_that_is_too_long(client):
    question = [{"role": "user", "content": "Paris is a city. " * 60_000}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > \d+"):
        ask(client, question)


def test_a_prefilled_answer_goes_on(client):
    prefill = {"role": "assistant", "content": "The capital of"}
    message = ask(client, [*FRANCE, prefill])
    assert message.content[0].text.lstrip().startswith("France is Paris")


@pytest.mark.parametrize("echoed", [True, False])
@pytest.mark.parametrize("thinking", [THINKING, {"type": "disabled"}])
def test_14_the_second_turn_is_read_from_the_cache(client, echoed, thinking):
    """Behaviour 14: thinking blocks echoed or dropped, the prompt is what was generated."""
    system = f"You are a helpful assistant. {echoed} {thinking}"
    first = ask(client, system=system, thinking=thinking)
    answer = first.to_param()
    if not echoed:
        answer["content"] = [block for block in answer["content"] if block.type == "text"]
    follow = [*FRANCE, answer, {"role": "user", "content": "And of Norway?"}]
    second = ask(client, follow, system=system, thinking=thinking)
    total = read(first)[0] + first.usage.output_tokens
    assert total - 2 <= read(second)[1] <= total
    assert "Oslo" in second.content[-1].text


def recorded(**fields):
    return {**copy.deepcopy(json.loads(RECORDED.read_text())), **fields}


@pytest.mark.parametrize("beta", ["", "?beta=true"])
def test_a_recorded_request_streaming_and_the_retry_that_does_not(live_server, beta):
    """Claude Code sends the same body again without streaming when a stream failed."""
    url = f"{live_server.url}/v1/messages{beta}"
    body = recorded(temperature=0, max_tokens=16)
    streaming = httpx.post(url, json={**body, "stream": True}, timeout=240)
    assert streaming.status_code == 200, streaming.text
    told = [
        json.loads(line.removeprefix("data: "))
        for line in streaming.text.splitlines()
        if line.startswith("data: ")
    ]
    for event in told:
        if event["type"] != "ping":
            STRICT.validate_json(json.dumps(event), strict=True)
    whole = httpx.post(url, json=body, timeout=240)
    Message.model_validate_json(whole.text, strict=True)
    [delta] = [event for event in told if event["type"] == "message_delta"]
    assert whole.json()["stop_reason"] == delta["delta"]["stop_reason"]
    assert whole.json()["usage"]["output_tokens"] == delta["usage"]["output_tokens"]
    counted = httpx.post(f"{live_server.url}/v1/messages/count_tokens{beta}", json=body)
    usage = whole.json()["usage"]
    total = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted.json() == {"input_tokens": total}


def test_claude_codes_billing_header_does_not_change_the_prefix(live_server):
    body = recorded(temperature=0, max_tokens=1)
    usages = []
    for nonce in ("cch=11111;", "cch=22222;"):
        body["system"][0]["text"] = f"x-anthropic-billing-header: cc_version=2.1.197.84c; {nonce}"
        usages.append(httpx.post(f"{live_server.url}/v1/messages", json=body, timeout=240).json())
    one, other = (answer["usage"] for answer in usages)
    total = one["input_tokens"] + one["cache_read_input_tokens"]
    assert other["input_tokens"] + other["cache_read_input_tokens"] == total
    assert other["cache_read_input_tokens"] > 0.9 * total
