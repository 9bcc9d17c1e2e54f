"""The official SDK for Python: Messages, whole and streamed."""

import json
from typing import Any

import anthropic
from report import (
    CAPITAL,
    CITY,
    FRANCE,
    ITALY,
    KEY,
    MODEL,
    RESULT,
    ROOT,
    SPAIN_AS_JSON,
    WEATHER_IN_PARIS,
    check,
    expect,
)  # fmt: skip

client = anthropic.Anthropic(base_url=ROOT, api_key=KEY, max_retries=0, timeout=120)
TOOLS: Any = [
    {"name": "get_weather", "description": "Get the weather in a city.", "input_schema": CITY}
]


def fields_of(given: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call. This SDK has no argument for the temperature any more."""
    messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
    extra = {"temperature": fields.pop("temperature", 0)}
    return {"model": MODEL, "max_tokens": 500, "messages": messages, "extra_body": extra, **fields}


def ask(given: Any = FRANCE, **fields: Any) -> Any:
    return client.messages.create(**fields_of(given, fields))


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def kinds_of(message: Any) -> list[str]:
    return [block.type for block in message.content]


@check("models")
def models() -> None:
    [card] = client.models.list().data
    expect(card.id == MODEL, card)


@check("plain and streamed")
def plain() -> None:
    whole = ask()
    expect("Paris" in text_of(whole) and whole.stop_reason == "end_turn", whole)
    with client.messages.stream(**fields_of(FRANCE, {})) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    expect(text_of(final) == text_of(whole), final)
    expect(kinds[0] == "message_start" and kinds[-1] == "message_stop", kinds)
    expect(final.usage.input_tokens > 0 and final.usage.output_tokens > 0, final.usage)


@check("thinking on and off")
def thinking() -> None:
    on = ask(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    expect(kinds_of(on)[0] == "thinking" and on.content[0].signature, on)
    expect("thinking" in kinds_of(ask(thinking={"type": "adaptive"})), "adaptive")
    off = ask(thinking={"type": "disabled"})
    expect("thinking" not in kinds_of(off), off)


@check("tool round trip")
def tools() -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER_IN_PARIS}]
    asked = ask(messages, tools=TOOLS)
    expect(asked.stop_reason == "tool_use", asked)
    [call] = [block for block in asked.content if block.type == "tool_use"]
    expect(call.input == {"city": "Paris"}, call)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps(RESULT)}
    messages += [
        {"role": "assistant", "content": asked.content},
        {"role": "user", "content": [result]},
    ]
    answer = ask(messages, tools=TOOLS)
    expect("21" in text_of(answer), answer)
    expect((answer.usage.cache_read_input_tokens or 0) > 0, answer.usage)


@check("tools, streamed")
def tools_streamed() -> None:
    given = fields_of(WEATHER_IN_PARIS, {"tools": TOOLS})
    with client.messages.stream(**given) as stream:
        final = stream.get_final_message()
    [call] = [block for block in final.content if block.type == "tool_use"]
    expect(call.input == {"city": "Paris"}, call)


@check("tool choice")
def choice() -> None:
    for wanted in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        asked = ask(tools=TOOLS, tool_choice=wanted)
        [call] = [block for block in asked.content if block.type == "tool_use"]
        expect(set(call.input) == {"city"}, call)
    never = ask(WEATHER_IN_PARIS, tools=TOOLS, tool_choice={"type": "none"})
    expect("tool_use" not in kinds_of(never), never)


@check("structured output")
def structured() -> None:
    form = {"format": {"type": "json_schema", "schema": CAPITAL}}
    answer = ask(SPAIN_AS_JSON, output_config=form)
    expect(json.loads(text_of(answer)) == {"country": "Spain", "capital": "Madrid"}, answer)


@check("second turn cached")
def cached() -> None:
    system = [{"type": "text", "text": "You are a helper of anthropic-python.",
               "cache_control": {"type": "ephemeral"}}]  # fmt: skip
    messages: list[Any] = [{"role": "user", "content": FRANCE}]
    first = ask(messages, system=system)
    messages += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": ITALY},
    ]
    second = ask(messages, system=system)
    expect("Rome" in text_of(second), second)
    expect((second.usage.cache_read_input_tokens or 0) >= first.usage.input_tokens, second.usage)


@check("stop sequences, count_tokens")
def counted() -> None:
    thinking = {"type": "disabled"}
    cut = ask(stop_sequences=["Paris"], thinking=thinking)
    expect(cut.stop_reason == "stop_sequence" and cut.stop_sequence == "Paris", cut)
    told = client.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": FRANCE}], thinking=thinking
    )
    usage = cut.usage
    spent = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    expect(told.input_tokens == spent + (usage.cache_creation_input_tokens or 0), (told, usage))


@check("errors")
def errors() -> None:
    try:
        ask(temperature=9)
    except anthropic.BadRequestError as bad:
        expect("temperature" in str(bad) and bad.body["type"] == "error", bad)
    else:
        expect(False, "temperature 9 was taken")
    try:
        client.messages.batches.list()
    except anthropic.NotFoundError as unknown:
        expect(unknown.body["type"] == "error", unknown)
    else:
        expect(False, "there are no batches")
