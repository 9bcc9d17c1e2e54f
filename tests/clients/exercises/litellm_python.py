"""LiteLLM as a library: one chat call for every dialect it speaks."""

import json
from typing import Any

import litellm
from pydantic import BaseModel
from report import (
    CITY,
    FRANCE,
    ITALY,
    KEY,
    MODEL,
    RESULT,
    ROOT,
    SPAIN_AS_JSON,
    URL,
    WEATHER_IN_PARIS,
    check,
    expect,
)  # fmt: skip

litellm.telemetry = False
litellm.suppress_debug_info = True
TOOLS: Any = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather in a city.", "parameters": CITY,
}}]  # fmt: skip


class Capital(BaseModel):
    country: str
    capital: str


def ask(given: Any = FRANCE, provider: str = "openai", **fields: Any) -> Any:
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    base = ROOT if provider == "anthropic" else URL
    return litellm.completion(
        model=f"{provider}/{MODEL}", messages=messages, api_base=base, api_key=KEY,
        num_retries=0, timeout=120, **{"temperature": 0, **fields},
    )  # fmt: skip


def streamed(provider: str) -> None:
    whole = ask(provider=provider).choices[0].message.content
    expect("Paris" in whole, whole)
    parts = list(ask(provider=provider, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.delta.content or "" for p in parts for c in p.choices)
    expect(text == whole, (text, whole))


@check("plain and streamed")
def plain() -> None:
    streamed("openai")


@check("plain and streamed as hosted_vllm")
def plain_vllm() -> None:
    streamed("hosted_vllm")


@check("messages: plain and streamed")
def plain_messages() -> None:
    streamed("anthropic")


@check("responses: plain and streamed")
def plain_responses() -> None:
    fields: Any = {"model": f"openai/{MODEL}", "input": FRANCE, "api_base": URL, "api_key": KEY}
    whole: Any = litellm.responses(**fields)
    expect("Paris" in whole.output[-1].content[0].text, whole)
    kinds = [
        str(getattr(e.type, "value", e.type)) for e in litellm.responses(**fields, stream=True)
    ]
    expect(kinds[-1] == "response.completed", kinds)


@check("reasoning")
def reasoning() -> None:
    answer = ask(reasoning_effort="low", allowed_openai_params=["reasoning_effort"])
    expect(answer.choices[0].message.reasoning_content, answer)


@check("tool round trip")
def tools() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER_IN_PARIS}]
    asked = ask(messages, tools=TOOLS).choices[0]
    [call] = asked.message.tool_calls
    expect(json.loads(call.function.arguments) == {"city": "Paris"}, call)
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps(RESULT)}
    answer = ask([*messages, asked.message.model_dump(), result], tools=TOOLS)
    expect("21" in answer.choices[0].message.content, answer)


@check("tools, streamed")
def tools_streamed() -> None:
    built = litellm.stream_chunk_builder(list(ask(WEATHER_IN_PARIS, tools=TOOLS, stream=True)))
    [call] = built.choices[0].message.tool_calls  # type: ignore[union-attr]
    expect(json.loads(call.function.arguments) == {"city": "Paris"}, call)


@check("structured output")
def structured() -> None:
    answer = ask(SPAIN_AS_JSON, response_format=Capital).choices[0].message.content
    expect(Capital.model_validate_json(answer).capital == "Madrid", answer)


@check("usage and second turn cached")
def cached() -> None:
    messages = [{"role": "system", "content": "You are a helper of litellm."},
                {"role": "user", "content": FRANCE}]  # fmt: skip
    first = ask(messages)
    messages += [{"role": "assistant", "content": first.choices[0].message.content},
                 {"role": "user", "content": ITALY}]  # fmt: skip
    second = ask(messages)
    expect("Rome" in second.choices[0].message.content, second)
    expect(second.usage.prompt_tokens_details.cached_tokens > 0, second.usage)


@check("errors")
def errors() -> None:
    try:
        ask(temperature=9)
    except litellm.BadRequestError as bad:
        expect("temperature" in str(bad), bad)
    else:
        expect(False, "temperature 9 was taken")
    try:
        ask("word " * 200_000)
    except litellm.ContextWindowExceededError as long:
        expect("maximum context length" in str(long), long)
    else:
        expect(False, "a prompt longer than the context was taken")
