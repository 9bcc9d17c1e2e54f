"""The official SDK for Python: Chat Completions, Completions and Responses."""

import json
from typing import Any

import openai
from pydantic import BaseModel
from report import (
    CITY,
    FRANCE,
    ITALY,
    KEY,
    MODEL,
    RESULT,
    SPAIN_AS_JSON,
    URL,
    WEATHER_IN_PARIS,
    check,
    expect,
)  # fmt: skip

client = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
WEATHER: Any = {"name": "get_weather", "description": "Get the weather in a city.",
                "parameters": CITY}  # fmt: skip
TOOLS: Any = [{"type": "function", "function": WEATHER}]


class Capital(BaseModel):
    country: str
    capital: str


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def chat(messages: str | list[Any] = FRANCE, **fields: Any) -> Any:
    messages = say(messages) if isinstance(messages, str) else messages
    fields = {"temperature": 0, "model": MODEL, **fields}
    return client.chat.completions.create(messages=messages, **fields)


@check("models")
def models() -> None:
    [card] = client.models.list().data
    expect(client.models.retrieve(card.id).id == MODEL, card)


@check("plain and streamed")
def plain() -> None:
    whole = chat().choices[0].message.content
    expect("Paris" in whole, whole)
    parts = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(c.delta.content or "" for p in parts for c in p.choices)
    expect(text == whole, (text, whole))
    expect(parts[-1].usage.completion_tokens > 0, parts[-1])


@check("async")
async def asynchronous() -> None:
    async with openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0) as other:
        stream = await other.chat.completions.create(
            model=MODEL, messages=say(FRANCE), stream=True, temperature=0
        )
        text = "".join([p.choices[0].delta.content or "" async for p in stream if p.choices])
        expect("Paris" in text, text)


@check("reasoning on and off")
def reasoning() -> None:
    on = chat(reasoning_effort="low")
    expect(on.choices[0].message.reasoning_content, on)
    off = chat(reasoning_effort="none")
    expect(not getattr(off.choices[0].message, "reasoning_content", None), off)
    expect(off.usage.completion_tokens_details.reasoning_tokens == 0, off.usage)


@check("tool round trip")
def tools() -> None:
    messages = say(WEATHER_IN_PARIS)
    asked = chat(messages, tools=TOOLS).choices[0]
    expect(asked.finish_reason == "tool_calls", asked)
    [call] = asked.message.tool_calls
    expect(json.loads(call.function.arguments) == {"city": "Paris"}, call)
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps(RESULT)}
    answer = chat([*messages, asked.message, result], tools=TOOLS).choices[0].message.content
    expect("21" in answer, answer)


@check("tool helper, streamed")
def tool_helper() -> None:
    with client.chat.completions.stream(
        model=MODEL, messages=say(WEATHER_IN_PARIS), tools=TOOLS, temperature=0
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    [call] = message.tool_calls or []
    expect(call.function.name == "get_weather", call)
    expect(json.loads(call.function.arguments) == {"city": "Paris"}, call)


@check("forced tool")
def forced() -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "max_tokens": 400}
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        [call] = chat(FRANCE, tool_choice=choice, **fields).choices[0].message.tool_calls
        expect(set(json.loads(call.function.arguments)) == {"city"}, call)
    never = chat(WEATHER_IN_PARIS, tool_choice="none", **fields).choices[0].message
    expect(not never.tool_calls, never)


@check("structured output")
def structured() -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=say(SPAIN_AS_JSON), response_format=Capital, temperature=0
    )
    expect(answer.choices[0].message.parsed == Capital(country="Spain", capital="Madrid"), answer)
    loose = chat(SPAIN_AS_JSON, response_format={"type": "json_object"})
    expect(json.loads(loose.choices[0].message.content), loose)


@check("second turn cached")
def cached() -> None:
    messages = [{"role": "system", "content": "You are a helper of openai-python."}, *say(FRANCE)]
    first = chat(messages)
    said = first.choices[0].message
    messages += [{"role": "assistant", "content": said.content}, *say(ITALY)]
    second = chat(messages)
    expect("Rome" in second.choices[0].message.content, second)
    tokens = second.usage.prompt_tokens_details.cached_tokens
    expect(tokens >= first.usage.prompt_tokens, second.usage)


@check("log probabilities, n, stop, seed")
def knobs() -> None:
    answer = chat(n=2, seed=3, stop=["."], logprobs=True, top_logprobs=2, reasoning_effort="none")
    expect(len(answer.choices) == 2, answer)
    entries = answer.choices[0].logprobs.content
    expect(all(e.logprob <= 0 and len(e.top_logprobs) == 2 for e in entries), entries)
    expect(answer.choices[0].message.content == "".join(e.token for e in entries), entries)
    expect("." not in answer.choices[0].message.content, answer)


@check("errors")
def errors() -> None:
    try:
        chat(temperature=9)
    except openai.BadRequestError as bad:
        expect(bad.param == "temperature" and "temperature" in str(bad), bad)
    else:
        expect(False, "temperature 9 was taken")
    try:
        client.embeddings.create(model=MODEL, input="x")
    except openai.NotFoundError as unknown:
        expect("embeddings" in str(unknown), unknown)
    else:
        expect(False, "there are no embeddings")
    try:
        chat("word " * 200_000, stream=True)
    except openai.BadRequestError as long:
        expect(long.code == "context_length_exceeded", long)
    else:
        expect(False, "a prompt longer than the context was taken")


@check("completions")
def completions() -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0, logprobs=1
    )
    expect(answer.choices[0].finish_reason in ("stop", "length"), answer)
    expect(answer.usage and answer.usage.completion_tokens > 0, answer)
    parts = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=8, temperature=0, stream=True
    )
    text = "".join(part.choices[0].text for part in parts if part.choices)
    expect(text == answer.choices[0].text, (text, answer))


def response(given: Any = FRANCE, **fields: Any) -> Any:
    fields = {"model": MODEL, "temperature": 0, **fields}
    return client.responses.create(input=given, **fields)


@check("responses: plain and streamed")
def responses() -> None:
    whole = response()
    expect(whole.status == "completed" and "Paris" in whole.output_text, whole)
    with client.responses.stream(model=MODEL, input=FRANCE, temperature=0) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    expect(final.output_text == whole.output_text, final)
    expect(kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds)
    expect("response.output_text.delta" in kinds, kinds)


@check("responses: reasoning")
def responses_reasoning() -> None:
    on = response(reasoning={"effort": "low", "summary": "auto"})
    expect("reasoning" in [item.type for item in on.output], on)
    off = response(reasoning={"effort": "none"})
    expect("reasoning" not in [item.type for item in off.output], off)


@check("responses: tool round trip")
def responses_tools() -> None:
    offered = [{"type": "function", "strict": False, **WEATHER}]
    asked = response(WEATHER_IN_PARIS, tools=offered)
    [call] = [item for item in asked.output if item.type == "function_call"]
    expect(json.loads(call.arguments) == {"city": "Paris"}, call)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": json.dumps(RESULT)}
    answer = response([result], previous_response_id=asked.id, tools=offered)
    expect("21" in answer.output_text, answer)
    expect(answer.usage.input_tokens_details.cached_tokens > 0, answer.usage)


@check("responses: structured output")
def responses_structured() -> None:
    answer = client.responses.parse(model=MODEL, input=SPAIN_AS_JSON, text_format=Capital)
    expect(isinstance(answer.output_parsed, Capital), answer)


@check("responses: stored")
def responses_stored() -> None:
    kept = response()
    expect(client.responses.retrieve(kept.id).output_text == kept.output_text, kept)
    client.responses.delete(kept.id)
    try:
        client.responses.retrieve(kept.id)
    except openai.NotFoundError as gone:
        expect(kept.id in str(gone), gone)
    else:
        expect(False, "a deleted response is still there")


@check("responses: errors")
def responses_errors() -> None:
    try:
        response(temperature=9)
    except openai.BadRequestError as bad:
        expect("temperature" in str(bad), bad)
    else:
        expect(False, "temperature 9 was taken")
