"""Pydantic AI: agents on Chat Completions, Responses and Messages."""

from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from report import (
    FRANCE,
    ITALY,
    KEY,
    MODEL,
    ROOT,
    SPAIN_AS_JSON,
    URL,
    WEATHER_IN_PARIS,
    check,
    expect,
)

openai_like = OpenAIProvider(base_url=URL, api_key=KEY)
CHAT = OpenAIChatModel(MODEL, provider=openai_like)
RESPONSES = OpenAIResponsesModel(MODEL, provider=openai_like)
MESSAGES = AnthropicModel(MODEL, provider=AnthropicProvider(base_url=ROOT, api_key=KEY))


class Capital(BaseModel):
    country: str
    capital: str


def agent(model: Any, **fields: Any) -> Any:
    settings = {"temperature": 0, "timeout": 120, "max_tokens": 600}
    return Agent(model, model_settings=settings, retries=0, **fields)  # type: ignore[arg-type]


async def plain_and_streamed(model: Any) -> None:
    whole = await agent(model).run(FRANCE)
    expect("Paris" in whole.output, whole)
    async with agent(model).run_stream(FRANCE) as run:
        expect(await run.get_output() == whole.output, "streamed")
        expect(run.usage.output_tokens > 0, run.usage)


async def tool_round_trip(model: Any) -> None:
    weathered = agent(model)
    asked = []

    @weathered.tool_plain
    def get_weather(city: str) -> dict[str, Any]:
        """Get the weather in a city."""
        asked.append(city)
        return {"temperature": 21, "condition": "sunny"}

    answer = await weathered.run(WEATHER_IN_PARIS)
    expect(asked == ["Paris"] and "21" in answer.output, (asked, answer))


@check("plain and streamed")
async def plain() -> None:
    await plain_and_streamed(CHAT)


@check("tool round trip")
async def tools() -> None:
    await tool_round_trip(CHAT)


@check("structured output by schema")
async def structured() -> None:
    answer = await agent(CHAT, output_type=NativeOutput(Capital)).run(SPAIN_AS_JSON)
    expect(answer.output == Capital(country="Spain", capital="Madrid"), answer)


@check("structured output by a required tool")
async def structured_by_tool() -> None:
    answer = await agent(CHAT, output_type=Capital).run(SPAIN_AS_JSON)
    expect(isinstance(answer.output, Capital), answer)


@check("usage and second turn cached")
async def cached() -> None:
    helper = agent(CHAT, instructions="You are a helper of pydantic-ai.")
    first = await helper.run(FRANCE)
    second = await helper.run(ITALY, message_history=first.all_messages())
    expect("Rome" in second.output, second)
    expect(second.usage.cache_read_tokens > 0, second.usage)


@check("errors")
async def errors() -> None:
    try:
        await Agent(CHAT, model_settings={"temperature": 9}).run(FRANCE)
    except ModelHTTPError as bad:
        expect(bad.status_code == 400 and "temperature" in str(bad), bad)
    else:
        expect(False, "temperature 9 was taken")


@check("responses: plain and streamed")
async def responses() -> None:
    await plain_and_streamed(RESPONSES)


@check("responses: tool round trip")
async def responses_tools() -> None:
    await tool_round_trip(RESPONSES)


@check("messages: plain and streamed")
async def messages() -> None:
    await plain_and_streamed(MESSAGES)


@check("messages: tool round trip")
async def messages_tools() -> None:
    await tool_round_trip(MESSAGES)
