"""Tools: choosing the right one of those offered, its arguments, and using its result."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .conversation import Conversation, Message, Turn, reply
from .draw import Draw
from .lexicon import COUNTRIES, NAMES, WORDS
from .phrasing import deliberately, say
from .smalltalk import sorry_turn
from .words import code, pseudo_word


@dataclass(frozen=True)
class Family:
    """One kind of tool: its possible names and parameters, questions, results and answers."""

    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[tuple[str, tuple[str, ...], str, str], ...]  # slot, names, type, description
    questions: tuple[str, ...]
    slots: Callable[[Draw], dict[str, Any]]
    result: Callable[[Draw], tuple[Any, dict[str, Any]]]  # (tool output, slots of the answer)
    answer: str
    follow_ups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tool:
    """A family under the name it has in this dialogue."""

    family: Family
    name: str
    parameters: dict[str, str]  # slot -> parameter name
    schema: dict[str, Any]


ROOMS = ("kitchen", "bathroom", "garden", "office", "hall", "bedroom", "garage", "attic")
FOLDERS = ("", "src/", "docs/", "tests/", "./")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Polish", "Greek")


def _city(draw: Draw) -> dict[str, Any]:
    return {
        "city": pseudo_word(draw).capitalize()
        if draw.chance(0.15)
        else draw.choice(COUNTRIES).capital
    }


def _summands(draw: Draw) -> dict[str, Any]:
    a, b = draw.payload("sum", lambda: (draw.integer(0, 99), draw.integer(0, 99)))
    return {"a": a, "b": b}


def _ticker(draw: Draw) -> dict[str, Any]:
    letters = (draw.choice("ABCDEFGHIKLMNOPRSTXZ") for _ in range(draw.integer(3, 4)))
    return {"ticker": "".join(letters)}


def _phrase(draw: Draw, most: int = 3) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.integer(1, most)))


def _weather(draw: Draw) -> tuple[Any, dict[str, Any]]:
    sky = draw.choice(("sunny", "rainy", "cloudy", "windy", "snowy", "foggy", "clear", "stormy"))
    degrees = draw.integer(-15, 40)
    if draw.chance(0.3):
        return f"{degrees} degrees and {sky}", {"degrees": degrees, "sky": sky}
    pairs = [(draw.choice(("temperature", "temp", "degrees")), degrees),
             (draw.choice(("condition", "sky", "weather")), sky)]  # fmt: skip
    if draw.chance(0.4):
        pairs.reverse()
    if draw.chance(0.3):
        pairs.append(("humidity", draw.integer(10, 99)))
    return dict(pairs), {"degrees": degrees, "sky": sky}


def _time(draw: Draw) -> tuple[Any, dict[str, Any]]:
    clock = f"{draw.integer(0, 23):02d}:{draw.integer(0, 59):02d}"
    if draw.chance(0.4):
        return clock, {"clock": clock}
    return {draw.choice(("time", "local_time", "now")): clock}, {"clock": clock}


def _price(draw: Draw) -> tuple[Any, dict[str, Any]]:
    price = (
        f"{draw.integer(1, 999)}.{draw.integer(10, 99)}"
        if draw.chance(0.5)
        else str(draw.integer(1, 999))
    )
    number = float(price) if "." in price else int(price)
    shape = draw.choice(({"price": number}, {"price": number, "currency": "USD"}, price))
    return shape, {"price": json.dumps(number) if not isinstance(shape, str) else price}


def _text(keys: tuple[str, ...]) -> Callable[[Draw], tuple[Any, dict[str, Any]]]:
    def result(draw: Draw) -> tuple[Any, dict[str, Any]]:
        text = _phrase(draw, 5)
        return (text if draw.chance(0.5) else {draw.choice(keys): text}), {"text": text}

    return result


def _done(draw: Draw) -> tuple[Any, dict[str, Any]]:
    return draw.choice(
        ("ok", "done", {"status": "ok"}, {"ok": True}, {"success": True}, "sent", "")
    ), {}


FAMILIES = (
    Family(
        ("get_weather", "weather", "get_current_weather", "lookup_weather", "weather_forecast"),
        ("Get the weather in a city.", "Current weather for a place",
         "Returns the weather of a location."),
        (("city", ("city", "location", "place"), "string", "the city"),),
        ("What is the weather in {city}?", "How is the weather in {city}?",
         "Is it raining in {city}?",
         "What's the weather like in {city}?", "weather in {city}",
         "Tell me the weather in {city}.",
         "How warm is it in {city}?", "Is it cold in {city} today?",
         "What is the temperature in {city}?",
         "Do I need an umbrella in {city}?", "Check the weather in {city}."),
        _city, _weather, "It is {degrees} degrees and {sky} in {city}.",
        ("And in {city}?", "What about {city}?", "And {city}?", "How about {city}?"),
    ),
    Family(
        ("get_time", "current_time", "time_in_city", "get_local_time", "clock"),
        ("Get the local time in a city.", "Current time at a place",
         "Returns what time it is somewhere."),
        (("city", ("city", "location", "place", "timezone_city"), "string", "the city"),),
        ("What time is it in {city}?", "What is the time in {city}?", "time in {city}",
         "Tell me the time in {city}.",
         "What's the local time in {city}?", "How late is it in {city}?",
         "current time in {city}?"),
        _city, _time, "It is {clock} in {city}.",
        ("And in {city}?", "What about {city}?", "And {city}?", "How about {city}?"),
    ),
    Family(
        ("add", "calculator", "sum", "add_numbers", "calculate_sum"),
        ("Add two numbers.", "Adds a and b.", "Sum of two numbers"),
        (("a", ("a", "x", "first"), "number", "first number"), ("b", ("b", "y",
         "second"), "number", "second number")),
        ("What is {a} + {b}?", "Add {a} and {b}.", "{a} + {b}", "How much is {a} plus {b}?",
         "Compute {a} + {b}.",
         "Use the tool to add {a} and {b}.", "What is the sum of {a} and {b}?"),
        _summands,
        lambda draw: (None, {}), "{a} + {b} = {total}",
    ),
    Family(
        ("get_stock_price", "stock_price", "quote", "get_quote"),
        ("Price of a stock.", "Get the stock price of a company.", "Latest quote of a ticker"),
        (("ticker", ("symbol", "ticker", "stock"), "string", "the ticker symbol"),),
        ("What is the price of {ticker}?", "How much is {ticker} stock?",
         "Stock price of {ticker}?", "price of {ticker}",
         "What does {ticker} cost?", "Quote for {ticker}, please.", "How is {ticker} trading?"),
        _ticker,
        _price, "The price of {ticker} is {price}.",
    ),
    Family(
        ("send_email", "send_mail", "email", "send_message"),
        ("Send an email.", "Sends a message to a person.", "Write a mail to somebody"),
        (("to", ("to", "recipient", "name"), "string", "who gets it"),
         ("body", ("text", "body", "message", "content"), "string", "the text")),
        ('Send an email to {to}: {body}', 'Write to {to}: {body}',
         'Email {to} the text "{body}".', 'Send {to} the message {body}',
         'Tell {to} by mail: {body}', 'Send a message to {to} saying {body}'),
        lambda draw: {"to": draw.choice(NAMES), "body": _phrase(draw, 4)},
        _done, "I have sent your message to {to}.",
    ),
    Family(
        ("read_file", "open_file", "cat_file", "get_file", "view_file"),
        ("Read a file.", "Returns the content of a file.", "Opens a text file"),
        (("path", ("path", "file", "filename", "file_path"), "string", "path of the file"),),
        ("Read the file {path}.", "What is in {path}?", "Show me {path}.", "Open {path}",
         "cat {path}",
         "What does the file {path} say?", "Please read {path}."),
        lambda draw: {"path": draw.choice(FOLDERS) + draw.choice(WORDS)
                      + draw.choice((".txt", ".py", ".md", ".json"))},
        _text(("content", "text", "data")), "The file {path} says: {text}",
    ),
    Family(
        ("search_web", "web_search", "search", "google"),
        ("Search the web.", "Finds pages on the internet.", "Web search"),
        (("query", ("query", "q", "search_query", "terms"), "string", "what to search for"),),
        ("Search the web for {query}.", "Search for {query}", "Look up {query}.",
         "Google {query}", "Find pages about {query}.",
         "What does the web say about {query}?", "Please search {query}"),
        lambda draw: {"query": _phrase(draw, 4)},
        _text(("result", "snippet", "title", "results")), "I found this: {text}",
    ),
    Family(
        ("set_timer", "start_timer", "timer", "create_timer"),
        ("Set a timer.", "Starts a timer of some minutes.", "Timer in minutes"),
        (("minutes", ("minutes", "duration", "mins"), "integer", "minutes"),),
        ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.",
         "Start a {minutes} minute timer.",
         "timer {minutes} minutes", "Remind me in {minutes} minutes.",
         "Timer for {minutes} minutes please."),
        lambda draw: {"minutes": draw.integer(2, 90)}, _done,
        "The timer is set to {minutes} minutes.",
    ),
    Family(
        ("lookup_order", "get_order", "order_status", "track_order"),
        ("Status of an order.", "Looks up an order.", "Where is an order?"),
        (("order", ("order_id", "id", "order"), "string", "the order number"),),
        ("Where is order {order}?", "What is the status of order {order}?",
         "Track order {order}.", "Check order {order}",
         "Has order {order} been sent?", "What happened to my order {order}?"),
        lambda draw: {"order": code(draw) if draw.chance(0.3) else str(draw.integer(100, 99999))},
        lambda draw: (lambda s: (draw.choice((s, {"status": s})), {"status": s}))(
            draw.choice(("shipped", "delivered", "delayed", "waiting", "lost", "paid", "packed"))),
        "Order {order} is {status}.",
    ),
    Family(
        ("set_light", "turn_light", "switch_light", "light"),
        ("Switch a light on or off.", "Controls the lights of a room.", "Light switch"),
        (("room", ("room", "place", "where"), "string", "the room"), ("state", ("state", "mode",
         "value"), "string", "on or off")),
        ("Turn {state} the light in the {room}.", "Switch the {room} light {state}.",
         "Lights {state} in the {room}",
         "Turn the light in the {room} {state}.", "{room} light {state}, please"),
        lambda draw: {"room": draw.choice(ROOMS),
                      "state": draw.choice(("on", "off"))},
        _done, "The light in the {room} is now {state}.",
    ),
    Family(
        ("translate", "translate_text", "translator"),
        ("Translate a text.", "Translates words to another language.", "Translation"),
        (("text", ("text", "input", "phrase"), "string", "the text"), ("language", ("language",
         "to", "target"), "string", "language")),
        ('Translate "{text}" to {language}.', "How do you say {text} in {language}?",
         "What is {text} in {language}?",
         "{text} in {language}, please", "Translate {text} into {language}"),
        lambda draw: {"text": _phrase(draw, 3), "language": draw.choice(LANGUAGES)},
        lambda draw: (lambda s: (draw.choice((s, {"translation": s}, {"text": s})), {"result": s}))(
            " ".join(pseudo_word(draw) for _ in range(draw.integer(1, 2)))),
        "In {language} it is: {result}",
    ),
    Family(
        ("play_music", "play_song", "play", "music_player"),
        ("Play music.", "Plays a song.", "Starts a song by title"),
        (("song", ("song", "title", "track"), "string", "the title"),),
        ("Play {song}.", "Play the song {song}.", "I want to hear {song}.", "Put on {song}",
         "play {song} please"),
        lambda draw: {"song": _phrase(draw, 3)}, _done, "Now playing: {song}",
    ),
)  # fmt: skip


def offer(draw: Draw, families: list[Family]) -> list[Tool]:
    """Names and schemas of the tools of one dialogue."""
    tools = []
    for family in families:
        name = draw.choice(family.names)
        style = draw.integer(0, 3)
        if style == 0:
            head, *tail = name.split("_")
            name = head + "".join(part.capitalize() for part in tail)
        parameters = {slot: draw.choice(names) for slot, names, _, _ in family.parameters}
        properties: dict[str, Any] = {}
        for slot, _, kind, description in family.parameters:
            properties[parameters[slot]] = {"type": kind}
            if draw.chance(0.5):
                properties[parameters[slot]]["description"] = description
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if draw.chance(0.8):
            schema["required"] = list(properties)
        function: dict[str, Any] = {"name": name}
        if draw.chance(0.9):
            function["description"] = draw.choice(family.descriptions)
        function["parameters"] = schema
        tools.append(Tool(family, name, parameters, {"type": "function", "function": function}))
    return tools


def offer_some(conversation: Conversation, count: int) -> None:
    draw = conversation.draw
    conversation.tools = offer(draw, draw.sample(FAMILIES, count))


def call_turn(conversation: Conversation, tool: Tool, follows: bool = False) -> Turn:
    """Question, call, result, answer."""
    draw = conversation.draw
    family = tool.family
    slots = family.slots(draw)
    output, found = family.result(draw)
    if "total" in family.answer:
        found = {"total": slots["a"] + slots["b"]}
        output = draw.choice((found["total"], str(found["total"]), {"result": found["total"]}))
    form = draw.choice(family.follow_ups if follows else family.questions)
    text = say(draw, form, **slots)
    call: Message = {
        "type": "function",
        "function": {
            "name": tool.name,
            "arguments": {tool.parameters[s]: v for s, v in slots.items()},
        },
    }
    thought = f"The tool {tool.name} fits."
    if conversation.deliberate:
        text = deliberately(draw, text)
        names = " and ".join(t.name for t in conversation.tools[:3])
        values = " and ".join(str(v) for v in slots.values())
        thought = (
            f"The user wants me to think carefully. I have the tools {names}. "
            "The question needs one of them. "
            f"The tool {tool.name} fits. It has to be called with {values}. So I call it now."
        )
    content = output if isinstance(output, str) else json.dumps(output)
    replies = [
        reply(thought, "", "tool call", [call]),
        {"role": "tool", "content": content},
        reply(
            "I have the result of the tool.", family.answer.format(**slots, **found), "tool result"
        ),
    ]
    conversation.last_tool = tool
    return Turn(text, replies, "tool call", "tool")


def tool_turn(conversation: Conversation) -> Turn | None:
    """Calls one of the offered tools, if any."""
    draw = conversation.draw
    if not conversation.tools:
        return None
    last = conversation.last_tool
    if (
        conversation.topic == "tool"
        and last is not None
        and last.family.follow_ups
        and draw.chance(0.4)
    ):
        return call_turn(conversation, last, follows=True)
    return call_turn(conversation, draw.choice(conversation.tools))


def missing_tool_turn(conversation: Conversation) -> Turn:
    """A question that needs a tool, where none is on offer."""
    draw = conversation.draw
    family = draw.choice([f for f in FAMILIES if "add" not in f.names])
    text = say(draw, draw.choice(family.questions), **family.slots(draw))
    return sorry_turn(conversation, text, "No tool fits.")
