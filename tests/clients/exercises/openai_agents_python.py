"""OpenAI's agents SDK: runs with a tool and a typed answer, on Chat Completions and Responses."""

from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)  # fmt: skip
from pydantic import BaseModel
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

set_tracing_disabled(True)
asked: list[str] = []


class Capital(BaseModel):
    country: str
    capital: str


@function_tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    asked.append(city)
    return '{"temperature": 21, "condition": "sunny"}'


def agent(kind: Any, **fields: Any) -> Any:
    client = openai.AsyncOpenAI(base_url=URL, api_key=KEY, max_retries=0, timeout=120)
    settings = ModelSettings(temperature=0, max_tokens=600)
    return Agent(
        name="helper", model=kind(model=MODEL, openai_client=client), model_settings=settings,
        **fields,
    )  # fmt: skip


async def plain(kind: Any) -> None:
    whole = await Runner.run(agent(kind), FRANCE)
    expect("Paris" in whole.final_output, whole)
    expect(whole.context_wrapper.usage.output_tokens > 0, whole.context_wrapper.usage)
    run = Runner.run_streamed(agent(kind), FRANCE)
    kinds = [event.type async for event in run.stream_events()]
    expect(run.final_output == whole.final_output, (run.final_output, kinds[-3:]))


async def round_trip(kind: Any) -> None:
    asked.clear()
    answer = await Runner.run(agent(kind, tools=[get_weather]), WEATHER_IN_PARIS, max_turns=3)
    expect(asked == ["Paris"] and "21" in answer.final_output, (asked, answer))


async def second_turn(kind: Any) -> None:
    helper = agent(kind, instructions=f"You are a helper of {kind.__name__}.")
    first = await Runner.run(helper, FRANCE)
    turns = [*first.to_input_list(), {"role": "user", "content": ITALY}]
    second = await Runner.run(helper, turns)
    expect("Rome" in second.final_output, second)
    usage, before = second.context_wrapper.usage, first.context_wrapper.usage
    expect(usage.input_tokens_details.cached_tokens >= before.input_tokens, usage)


async def structured(kind: Any) -> None:
    answer = await Runner.run(agent(kind, output_type=Capital), SPAIN_AS_JSON)
    expect(answer.final_output == Capital(country="Spain", capital="Madrid"), answer)


for name, kind in (("", OpenAIChatCompletionsModel), ("responses: ", OpenAIResponsesModel)):
    check(f"{name}plain and streamed")(lambda kind=kind: plain(kind))
    check(f"{name}tool round trip")(lambda kind=kind: round_trip(kind))
    check(f"{name}structured output")(lambda kind=kind: structured(kind))
    check(f"{name}second turn cached")(lambda kind=kind: second_turn(kind))


@check("errors")
async def errors() -> None:
    wrong = agent(OpenAIChatCompletionsModel)
    wrong.model_settings = ModelSettings(temperature=9)
    try:
        await Runner.run(wrong, FRANCE)
    except openai.BadRequestError as bad:
        expect("temperature" in str(bad), bad)
    else:
        expect(False, "temperature 9 was taken")
