"""The embedded demo through the Responses of OpenAI's own SDK, and as Codex asks for it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, ConfigDict, TypeAdapter

from tests.e2e.responses_client import (
    FRANCE,
    NO_THOUGHT,
    SEALED,
    ask,
    cached,
    connected,
    kinds,
    sent,
    texts,
    user,
)

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city",
    "parameters": CITY,
    "strict": False,
}
TIME: Any = {**WEATHER, "name": "get_time", "description": "Get the time in a city"}
STRICT = TypeAdapter(ResponseStreamEvent)
RECORDED = Path(__file__).parent / "codex_request.json"


@pytest.fixture(scope="module")
def client(live_server):
    with connected(live_server) as client:
        yield client


def streamed(client, given: Any = FRANCE, **fields) -> Any:
    """The events, checked, and the response that the SDK's helper makes of another stream."""
    fields = {"model": "demo", "temperature": 0, **fields}
    with client.responses.create(input=given, stream=True, **fields) as raw:
        events = list(raw)
    for number, event in enumerate(events):
        STRICT.validate_json(event.model_dump_json(exclude_unset=True, by_alias=True), strict=True)
        assert event.sequence_number == number
    with client.responses.stream(input=given, **fields) as stream:
        return events, stream.get_final_response()


def told(response):
    """Its output, but for what is another one each time."""
    return [
        item.model_dump(exclude={"id", "call_id", "parsed_arguments"}) | {"content": texts(item)}
        for item in response.output
    ]


def test_whole_and_streamed(client):
    whole = ask(client)
    assert "Paris" in whole.output_text
    assert kinds(whole) == ["reasoning", "message"]
    assert whole.usage.output_tokens_details.reasoning_tokens > 0
    events, response = streamed(client)
    assert told(response) == told(whole)
    assert response.usage.output_tokens == whole.usage.output_tokens
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 1
    thought = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert ["".join(thought)] == texts(whole.output[0])


def test_async(live_server):
    async def both():
        url = f"{live_server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                client.responses.create(model="demo", input=FRANCE, temperature=0), stream(client)
            )

    async def stream(client):
        async with client.responses.stream(model="demo", input=FRANCE, temperature=0) as stream:
            return await stream.get_final_response()

    one, other = asyncio.run(both())
    assert "Paris" in one.output_text
    assert one.output_text == other.output_text


def test_effort_and_summary(client):
    assert kinds(ask(client, reasoning=NO_THOUGHT)) == ["message"]
    thought = ask(client, reasoning={"effort": "low", "summary": "auto"}).output[0]
    assert [part.text for part in thought.summary] == texts(thought)
    cut = ask(client, extra_body={"thinking_budget": 3})
    assert "I have thought long enough" in texts(cut.output[0])[0]
    assert cut.usage.output_tokens_details.thinking_cut


def test_max_output_tokens_leave_it_incomplete(client):
    whole = ask(client, max_output_tokens=3, reasoning=NO_THOUGHT)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (whole.output[0].status, whole.usage.output_tokens) == ("incomplete", 3)
    events = list(
        client.responses.create(model="demo", input=FRANCE, max_output_tokens=3, stream=True)
    )
    assert events[-1].type == "response.incomplete"


class Capital(BaseModel):
    model_config = ConfigDict(extra="forbid")
    country: str
    capital: str


@pytest.mark.parametrize("effort", ["none", "low"])
def test_structured_output(client, effort):
    question = "Give the capital of Spain as JSON with the keys country and capital."
    fields = {"model": "demo", "temperature": 0, "reasoning": {"effort": effort}}
    response = client.responses.parse(input=question, text_format=Capital, **fields)
    assert isinstance(response.output_parsed, Capital)
    json_object: Any = {"format": {"type": "json_object"}}
    assert isinstance(json.loads(ask(client, question, text=json_object).output_text), dict)


def test_an_unsupported_schema_is_named(client):
    schema = {"type": "object", "$dynamicRef": "#node"}
    form = {"type": "json_schema", "name": "x", "schema": schema}
    with pytest.raises(openai.BadRequestError, match="dynamicRef") as refused:
        ask(client, text={"format": form})
    assert refused.value.param == "text.format.schema"


@pytest.mark.parametrize("way", ["items", "previous"])
def test_a_tool_is_called_and_its_result_used(client, way):
    question = [user("What is the weather in Oslo?")]
    first = ask(client, question, tools=[WEATHER])
    call = first.output[-1]
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments) == {"city": "Oslo"}
    events, response = streamed(client, question, tools=[WEATHER])
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments == response.output[-1].arguments
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": '{"temperature": 21}',
    }
    before = {
        "items": {"given": [*question, *sent(first), result], "store": False},
        "previous": {"given": [result], "previous_response_id": first.id},
    }[way]
    second = ask(client, tools=[WEATHER], **before)
    assert kinds(second)[-1] == "message"
    assert second.output_text
    assert cached(second) >= first.usage.total_tokens - 2


def test_tool_choice_is_kept_to(client):
    named = {"type": "function", "name": "get_time"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in (named, allowed):
        response = ask(client, tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False)
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.name for call in calls] == ["get_time"]
        assert isinstance(json.loads(calls[0].arguments)["city"], str)
    question = "What is the weather in Oslo?"
    assert kinds(ask(client, question, tools=[WEATHER], tool_choice="none"))[-1] == "message"
    required = ask(client, tools=[WEATHER, TIME], tool_choice="required")
    assert "function_call" in kinds(required)


def test_a_function_of_a_namespace(client):
    geo = {"type": "namespace", "name": "geo", "description": "Geography", "tools": [WEATHER]}
    question = [user("What is the weather in Oslo?")]
    first = ask(client, question, tools=[geo, {"type": "web_search"}])
    call = first.output[-1]
    assert (call.type, call.namespace, call.name) == ("function_call", "geo", "get_weather")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "7 C and sunny"}
    second = ask(client, [*question, *sent(first), result], tools=[geo])
    assert cached(second) >= first.usage.total_tokens - 2


@pytest.mark.parametrize("way", ["echoed", "sealed", "summary", "dropped", "previous"])
def test_14_the_second_turn_is_read_from_the_cache(client, way):
    """Behaviour 14: whatever comes back of the thought, the prompt is what was generated."""
    instructions = f"You are a helpful assistant. {way}"
    fields: Any = {"instructions": instructions, "reasoning": {"effort": "low", "summary": "auto"}}
    first = ask(client, [user(FRANCE)], include=SEALED, store=way == "previous", **fields)
    items = sent(first)
    assert items[0]["encrypted_content"]
    keep = {"echoed": "content", "sealed": "encrypted_content", "summary": "summary"}.get(way)
    for name in {"content", "encrypted_content"} - {keep}:
        del items[0][name]
    if way != "summary":
        items[0]["summary"] = []
    if way == "dropped":
        del items[0]
    follow = [user("And of Norway?")]
    if way == "previous":
        second = ask(client, follow, previous_response_id=first.id, **fields)
    else:
        second = ask(client, [user(FRANCE), *items, *follow], **fields)
    assert first.usage.total_tokens - 2 <= cached(second) <= first.usage.total_tokens
    assert "Oslo" in second.output_text


def test_input_tokens_are_exact(client):
    fields: Any = {"tools": [WEATHER], "instructions": "Be brief.", "reasoning": NO_THOUGHT}
    counted = client.responses.input_tokens.count(model="demo", input=FRANCE, **fields)
    assert counted.input_tokens == ask(client, **fields).usage.input_tokens


def test_a_prompt_that_is_too_long(client):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="maximum context length is") as refused:
            client.responses.create(model="demo", input="Paris is a city. " * 60_000, stream=stream)
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_log_probabilities(client):
    include: Any = ["message.output_text.logprobs"]
    response = ask(client, include=include, top_logprobs=2, reasoning=NO_THOUGHT)
    [part] = response.output[0].content
    assert "".join(entry.token for entry in part.logprobs) == part.text
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_a_recorded_request_of_codex(live_server):
    """And the turn after it, with what came back: all of it from the cache."""
    url = f"{live_server.url}/v1/responses"
    body = {**json.loads(RECORDED.read_text()), "temperature": 0, "max_output_tokens": 24}
    usages = []
    for _ in range(2):
        text = httpx.post(url, json=body, timeout=240).text
        data = [line.removeprefix("data: ") for line in text.splitlines() if line[:5] == "data:"]
        for line in data:
            STRICT.validate_json(line, strict=True)
        response = json.loads(data[-1])["response"]
        assert response["status"] in ("completed", "incomplete")
        done = [json.loads(line) for line in data if '"response.output_item.done"' in line]
        assert [event["item"] for event in done] == response["output"]
        usages.append(response["usage"])
        body["input"] += [*response["output"], user("And 3+3?")]
    assert usages[1]["input_tokens_details"]["cached_tokens"] >= usages[0]["total_tokens"] - 2
