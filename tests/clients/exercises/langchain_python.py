"""langchain-openai: ChatOpenAI on Chat Completions and on Responses."""

from typing import Any

import openai
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr
from report import (
    FRANCE,
    ITALY,
    KEY,
    MODEL,
    SPAIN_AS_JSON,
    URL,
    WEATHER_IN_PARIS,
    check,
    expect,
)  # fmt: skip


class Capital(BaseModel):
    """The capital of a country."""

    country: str
    capital: str


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return '{"temperature": 21, "condition": "sunny"}'


def model(**fields: Any) -> Any:
    return ChatOpenAI(
        model=MODEL, base_url=URL, api_key=SecretStr(KEY), max_retries=0, timeout=120,
        **{"temperature": 0, **fields},
    )  # fmt: skip


@check("plain and streamed")
def plain() -> None:
    whole = model().invoke(FRANCE)
    expect("Paris" in whole.content, whole)
    total: Any = None
    for part in model(stream_usage=True).stream(FRANCE):
        total = part if total is None else total + part
    expect(total.content == whole.content, total)
    expect(total.usage_metadata["output_tokens"] > 0, total)


def round_trip(chat: Any) -> None:
    asked: AIMessage = chat.invoke(WEATHER_IN_PARIS)
    [call] = asked.tool_calls
    expect(call["name"] == "get_weather" and call["args"] == {"city": "Paris"}, asked)
    told = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = chat.invoke([HumanMessage(WEATHER_IN_PARIS), asked, told])
    expect("21" in answer.text, answer)


@check("tool round trip")
def tools() -> None:
    round_trip(model().bind_tools([get_weather]))


@check("tools, streamed")
def tools_streamed() -> None:
    total: Any = None
    for part in model().bind_tools([get_weather]).stream(WEATHER_IN_PARIS):
        total = part if total is None else total + part
    [call] = total.tool_calls
    expect(call["args"] == {"city": "Paris"} and not total.invalid_tool_calls, total)


@check("structured output")
def structured() -> None:
    for method in ("json_schema", "function_calling"):
        asked = model().with_structured_output(Capital, method=method)
        answer = asked.invoke(SPAIN_AS_JSON)
        expect(isinstance(answer, Capital), (method, answer))
        expect(method != "json_schema" or answer.capital == "Madrid", answer)


@check("usage and second turn cached")
def cached() -> None:
    first = model().invoke([("system", "You are a helper of langchain."), ("user", FRANCE)])
    second = model().invoke([
        ("system", "You are a helper of langchain."), ("user", FRANCE), first, ("user", ITALY),
    ])  # fmt: skip
    expect("Rome" in second.content, second)
    expect(second.usage_metadata["input_token_details"]["cache_read"] > 0, second)


@check("errors")
def errors() -> None:
    try:
        model(temperature=1, presence_penalty=9).invoke(FRANCE)
    except openai.BadRequestError as bad:
        expect("presence_penalty" in str(bad), bad)
    else:
        expect(False, "presence_penalty 9 was taken")
    try:
        model().invoke("word " * 200_000)
    except openai.BadRequestError as long:
        expect(type(long).__name__ == "OpenAIContextOverflowError", repr(long))
    else:
        expect(False, "a prompt longer than the context was taken")


@check("responses: plain and streamed")
def responses() -> None:
    chat = model(use_responses_api=True, output_version="responses/v1")
    whole = chat.invoke(FRANCE)
    expect("Paris" in whole.text, whole)
    expect("Paris" in "".join(part.text for part in chat.stream(FRANCE)), "streamed")


@check("responses: tool round trip")
def responses_tools() -> None:
    chat = model(use_responses_api=True, output_version="responses/v1")
    round_trip(chat.bind_tools([get_weather]))
