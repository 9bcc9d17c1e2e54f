"""Answers in JSON."""

import json
from typing import Any

from .capitals import surface
from .conversation import Conversation, Turn, reply
from .lexicon import COUNTRIES, NAMES
from .phrasing import deliberately, say
from .words import pseudo_word, word

CAPITAL = (
    "Give the capital of {country} as JSON.", "Give me the capital of {country} as JSON.",
    "What is the capital of {country}? Answer in JSON.", "Capital of {country} as JSON",
    "Return the capital of {country} as JSON.", "Reply in JSON: what is the capital of {country}?",
    "What is the capital of {country}? Reply with JSON.", "capital of {country} in json",
    "JSON please: the capital of {country}.", "Write the capital of {country} as a JSON object.",
    "Answer in JSON format. What's the capital of {country}?",
    "What's the capital of {country}, as JSON?",
    "I need JSON with the capital of {country}.", "Output the capital of {country} as json",
)  # fmt: skip
CAPITAL_FOLLOW_UPS = (
    "And {country}?", "What about {country}?", "How about {country}?", "And for {country}?",
    "Same for {country}.", "Now {country}.", "{country}?",
)  # fmt: skip
SUM = (
    "Give {a} + {b} as JSON.", "What is {a} + {b}? Answer in JSON.",
    "Compute {a} + {b} and reply in JSON.",
    "Add {a} and {b}, as JSON.", "Return the sum of {a} and {b} as JSON.", "{a} + {b} as JSON",
    "Answer in JSON: {a} plus {b}?",
)  # fmt: skip
PERSON = (
    "{name} is {age} years old. Give this as JSON.", "{name} is {age}. Write it as JSON.",
    "Turn this into JSON: {name} is {age} years old.",
    "Extract name and age as JSON: {name}, {age}",
    "Make JSON from this: {name} is {age} years old", "As JSON please: {name} is {age}.",
)  # fmt: skip
LIST = (
    "Give me the words {words} as a JSON list.", "Write {words} as a JSON list.",
    "Make a JSON array of {words}.", "As a JSON list: {words}", "Turn {words} into a JSON array.",
    "Return {words} as JSON array", "Put {words} in a JSON list.",
)  # fmt: skip


def _turn(conversation: Conversation, text: str, value: Any, topic: str, why: str) -> Turn:
    answer = json.dumps(value, ensure_ascii=False)
    thought = f"The user wants JSON. {why}"
    if conversation.deliberate:
        text = deliberately(conversation.draw, text)
        thought = (
            f"The user wants me to think carefully. {thought} The object has to be valid JSON, "
            f"with double quotes around every string. It looks like this: {answer}\nThat is right."
        )
    return Turn(text, [reply(thought, answer, "json")], "json", topic)


def json_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    follows = conversation.topic == "json capital" and draw.chance(0.6)
    kind = 0 if follows else draw.choice((0, 0, 0, 1, 2, 3))
    if kind == 0:
        forms = CAPITAL_FOLLOW_UPS if follows else CAPITAL
        form, country = draw.payload("json", lambda: (draw.choice(forms), draw.choice(COUNTRIES)))
        text = say(draw, form, country=surface(draw, country))
        value = {"country": country.name.removeprefix("the "), "capital": country.capital}
        why = f"The capital of {country.name} is {country.capital}."
        return _turn(conversation, text, value, "json capital", why)
    if kind == 1:
        a, b = draw.payload("sum", lambda: (draw.integer(0, 99), draw.integer(0, 99)))
        text = say(draw, draw.choice(SUM), a=a, b=b)
        why = f"{a} + {b} = {a + b}."
        return _turn(conversation, text, {"a": a, "b": b, "sum": a + b}, "json", why)
    if kind == 2:
        name = draw.payload(
            "json name",
            lambda: pseudo_word(draw).capitalize() if draw.chance(0.2) else draw.choice(NAMES),
        )
        age = draw.integer(1, 99)
        text = say(draw, draw.choice(PERSON), name=name, age=age)
        return _turn(conversation, text, {"name": name, "age": age}, "json", f"The name is {name}.")
    words = draw.payload("json words", lambda: tuple(word(draw) for _ in range(draw.integer(2, 4))))
    listing = ", ".join(words[:-1]) + draw.choice((" and ", ", ")) + words[-1]
    text = say(draw, draw.choice(LIST), words=listing)
    return _turn(conversation, text, list(words), "json", "It is a list of words.")
