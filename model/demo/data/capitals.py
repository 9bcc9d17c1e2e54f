"""Capitals, follow-ups that need the turn before, and comparisons of the cities just named."""

from .conversation import Conversation, Turn, reply
from .draw import Draw
from .lexicon import ALIASES, COUNTRIES, Country
from .phrasing import ask, deliberately, say
from .words import pseudo_word

NOUN = "the capital of {country}"
QUESTIONS = (
    "What is the capital of {country}?", "What's the capital of {country}?",
    "Which city is the capital of {country}?", "Capital of {country}?", "{country} capital?",
    "Name the capital of {country}.", "What is {country}'s capital?",
    "What city is {country}'s capital?",
    "The capital of {country} is?", "Give me the capital of {country}.",
    "Tell me {country}'s capital.",
    "What is the capital city of {country}?", "Which city is {country}'s capital city?",
    "Where is the capital of {country}?", "What's the capital city of {country} called?",
    "What is the name of the capital of {country}?",
    "I forgot the capital of {country}. What is it?",
    "The capital of {country}, please.", "Do you know the capital of {country}?",
    "Say the capital of {country}.", "My question is: what is the capital of {country}?",
    "In geography class they asked for the capital of {country}. What is it?",
    "capital {country}", "what capital does {country} have?", "which is the capital of {country}",
)  # fmt: skip
FOLLOW_UPS = (
    "And {country}?", "What about {country}?", "And of {country}?", "How about {country}?",
    "{country}?",
    "And for {country}?", "Same question for {country}.", "Now {country}.",
    "And what about {country}?",
    "what of {country}?", "Then {country}?", "And the one of {country}?", "Also {country}?",
    "ok and {country}?", "And in {country}?", "Next: {country}.", "now for {country}",
)  # fmt: skip
REVERSE = (
    "{city} is the capital of which country?",
    "Which country has {city} as its capital?",
    "Of which country is {city} the capital?",
    "What country is {city} the capital of?",
    "{city} is the capital of what country?",
)
LARGEST = (
    "Which of those {number} cities has the largest population?",
    "Which of these {number} is the largest?",
    "Which of those {number} cities is the biggest?", "Which of the {number} has the most people?",
    "Which of them has the largest population?", "Which of those cities is the largest?",
    "Which of the {number} cities is the largest?",
    "Of those {number}, which has the most inhabitants?",
)  # fmt: skip
NUMBERS = {2: "two", 3: "three", 4: "four"}


def surface(draw: Draw, country: Country) -> str:
    """How the user writes the country."""
    name = draw.choice(ALIASES.get(country.name, (country.name,)))
    return name.lower() if draw.chance(0.2) else name


def thought(conversation: Conversation, country: Country) -> str:
    short = f"The capital of {country.name} is {country.capital}."
    if not conversation.deliberate:
        return short
    return (
        "The user wants me to think carefully. "
        f"The question is about the capital of {country.name}. "
        f"This country is in {country.continent}. I look for its capital city. {short} "
        f"Let me check it once more. {country.capital} is the capital of {country.name}. "
        f"Yes, this is right. So I answer {country.capital}."
    )


def answer(country: Country) -> str:
    return f"The capital of {country.name} is {country.capital}."


def question(conversation: Conversation, form: str, country: Country) -> str:
    text = say(conversation.draw, form, country=surface(conversation.draw, country))
    return deliberately(conversation.draw, text) if conversation.deliberate else text


def pick(conversation: Conversation, forms: tuple[str, ...], kind: str) -> tuple[str, Country]:
    """A (form, country) pair of the right side of the split; the noun phrase counts as a form."""
    draw = conversation.draw
    return draw.payload(
        kind, lambda: (ask(draw, NOUN, forms) if kind == "capital" else draw.choice(forms),
                       draw.choice(COUNTRIES[:18] if draw.chance(0.25) else COUNTRIES)),
    )  # fmt: skip


def capital_turn(conversation: Conversation) -> Turn:
    form, country = pick(conversation, QUESTIONS, "capital")
    if conversation.topic != "capital":
        conversation.asked.clear()
    conversation.asked.append(country)
    replies = [reply(thought(conversation, country), answer(country), "capital")]
    return Turn(question(conversation, form, country), replies, "capital", "capital")


def follow_up_turn(conversation: Conversation) -> Turn:
    form, country = pick(conversation, FOLLOW_UPS, "follow-up")
    conversation.asked.append(country)
    lead = "The user still asks for capitals. "
    replies = [reply(lead + thought(conversation, country), answer(country), "follow-up")]
    return Turn(question(conversation, form, country), replies, "follow-up", "capital")


def reverse_turn(conversation: Conversation) -> Turn:
    form, country = pick(conversation, REVERSE, "reverse")
    conversation.asked[:] = [country]
    text = say(conversation.draw, form, city=country.capital)
    if conversation.deliberate:
        text = deliberately(conversation.draw, text)
    sentence = f"{country.capital} is the capital of {country.name}."
    return Turn(
        text, [reply(thought(conversation, country), sentence, "capital")], "capital", "reverse"
    )


def largest_turn(conversation: Conversation) -> Turn | None:
    """Compares the last two to four cities, where the difference is beyond doubt."""
    draw = conversation.draw
    cities = list(dict.fromkeys(conversation.asked))[-4:]
    if len(cities) != len(conversation.asked) or len(cities) < 2:
        return None
    ranked = sorted(cities, key=lambda c: c.population)
    if ranked[-1].population < 1.4 * ranked[-2].population:
        return None
    names = [c.capital for c in cities]
    listing = ", ".join(names[:-1]) + f" and {names[-1]}"
    best = ranked[-1].capital
    text = say(draw, draw.choice(LARGEST), number=NUMBERS[len(cities)])
    why = f"The cities are {listing}. {best} has the most people."
    if conversation.deliberate:
        text = deliberately(draw, text)
        lead = "The user wants me to think carefully. I compare the cities one by one."
        why = f"{lead} {why} Yes, {best}."
    sentence = f"{best} has the largest population."
    return Turn(text, [reply(why, sentence, "follow-up")], "follow-up", "largest")


def unknown_country_turn(conversation: Conversation) -> Turn:
    """A country that does not exist, or that the model was never taught."""
    draw = conversation.draw
    name = draw.payload("unknown", lambda: pseudo_word(draw).capitalize())
    text = say(draw, ask(draw, NOUN, QUESTIONS), country=name)
    sentence = f"I do not know the capital of {name}. I am only a small demo model."
    why = f"I have not learned about {name}."
    return Turn(text, [reply(why, sentence, "fallback")], "fallback", "unknown")
