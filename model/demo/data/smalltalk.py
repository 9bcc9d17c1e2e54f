"""Who the model is, greetings, thanks, and an honest answer to everything else."""

import re

from .capitals import FOLLOW_UPS, surface
from .conversation import Conversation, Turn, reply
from .draw import Draw
from .lexicon import COUNTRIES, NAMES, WORDS
from .phrasing import deliberately, say
from .words import pseudo_word

WHO = "I am the mxserve demo, a tiny model that shows that the server works."
ABLE = (
    "I can name capitals, add numbers up to 99, count, repeat words, remember what you tell me, "
    "answer in JSON and call tools."
)
HELLO = "Hello! How can I help you?"
IDENTITY = {
    WHO: (
        "Who are you?", "What are you?", "What is your name?", "What's your name?", "who are you",
        "Which model are you?", "Are you ChatGPT?", "Are you Qwen?", "Introduce yourself.",
        "Who am I talking to?",
        "Tell me about yourself.", "What model is this?", "Are you a human?", "Are you an AI?",
        "Are you a bot?",
        "What kind of model are you?", "What is your model name?", "Who made you?",
        "What AI is this?",
        "How big are you?", "Are you a large language model?", "Please introduce yourself",
        "your name?",
        "Are you Claude?", "Are you GPT-4?", "Who is this?", "What should I call you?",
        "Describe yourself.",
        "Which version are you?", "Say who you are.", "what are you exactly",
    ),
    ABLE: (
        "What can you do?", "What can I ask you?", "How can you help me?",
        "What are you good at?", "Help", "help me",
        "What are your skills?", "What do you know?", "What can you help with?", "Can you help me?",
        "Which tasks can you do?", "what can you do for me", "List your abilities.",
        "What are your features?",
        "What questions can you answer?", "Show me what you can do.", "What do you do?",
        "I need help.",
    ),
}  # fmt: skip
CHAT = {
    HELLO: (
        "Hi", "Hello", "Hey", "hi!", "Hello!", "Hey there", "Good morning", "Good evening",
        "Hi there!", "Hello there",
        "Good afternoon!", "greetings", "Yo", "hello?", "Hi, are you there?", "Is anyone there?",
        "Hello world", "test",
        "ping", "Hey!", "hiya", "Good day", "Testing", "howdy",
    ),
    "You are welcome!": (
        "Thanks!", "Thank you.", "thank you", "Thanks a lot!", "thx", "Many thanks",
        "Thank you very much!",
        "Great, thanks!", "ok thanks", "Cool, thank you", "Perfect, thanks.",
        "thanks for your help", "ty",
    ),
    "Goodbye!": (
        "Bye", "Goodbye", "See you", "bye bye", "See you later!", "I have to go.", "Good night",
        "That is all. Bye.",
        "Farewell", "quit", "exit", "ciao", "Bye, thanks!",
    ),
    "I am fine, thank you. How can I help you?": (
        "How are you?", "How are you doing?", "how's it going", "What's up?", "How do you do?",
        "Are you ok?",
        "How do you feel today?", "how are you today?", "Everything all right?",
    ),
    "Good. What else can I do for you?": (
        "Ok", "Great!", "Nice.", "Cool", "Good job!", "ok", "I see.", "Interesting.", "Perfect.",
        "Well done!", "Right.",
        "Correct!", "That is right.", "Awesome", "Yes", "Alright", "Wow", "good", "Very good!",
        "Understood.",
    ),
}  # fmt: skip
SORRY = (
    "I am only a small demo model and cannot help with that. "
    "Ask me for a capital, a sum or a count."
)
UNKNOWN = (
    "Write a poem about {x}.", "Explain {x}.", "What is {x}?", "Tell me a joke.",
    "Tell me a story about {x}.",
    "Who invented the {x}?", "Write a {x} function in Python.", "How do I cook {x}?",
    "Why is the {x} {y}?",
    "What do you think about {x}?", "Who won the {x} game?", "Translate {x} to {y}.",
    "Summarize this text: {x} {y} {x}",
    "How does a {x} work?", "What is the meaning of {x}?", "Fix this code: {x} = {y}",
    "What is the weather today?",
    "What time is it?", "Who is {n}?", "When was {n} born?", "Write an email to {n}.",
    "How old is {n}?",
    "What is the meaning of life?", "Recommend a good {x}.",
    "Give me a recipe with {x} and {y}.", "Is {x} better than {y}?",
    "Where can I buy a {x}?", "What is the price of {x}?", "Explain quantum physics.",
    "Sing a song about {x}.",
    "What happened in 1{d}?", "Can you write code?", "How many {x} are there in the world?",
    "Draw a {x}.",
    "What's the difference between {x} and {y}?", "Who is the president of {c}?",
    "How many people live in {c}?",
    "What language do they speak in {c}?", "Plan a trip to {c}.", "What is the history of {c}?",
    "Write an essay on {x}.",
    "Give me a synonym for {x}.", "Is it going to rain?", "{x}?", "{x} {y}", "{p} {x} {p}",
    "I think {x} is {y}.",
    "Do you like {x}?", "What color is the {x}?", "Define {x}.", "how to {x} a {y}",
    "Can {x} eat {y}?",
    "Refactor the {x} class.", "Add a test for the {x} module.", "Why does my {x} not work?",
    "My {x} is broken.",
    "What is the best {x}?", "Make a plan for {x}.", "Search the web for {x}.",
    "Open the {x} file.",
    "List three facts about {x}.", "Name five {x}s.", "Rewrite this: the {x} is {y}.",
    "Are there {x}s on {y}?",
)  # fmt: skip


# With tools on offer these would be ambiguous.
TOOLISH = re.compile("weather|time is|rain|[Ss]earch|Translate|price|email|[Oo]pen|[Ww]rite|poem")


def _fixed(
    conversation: Conversation, answers: dict[str, tuple[str, ...]], skill: str, why: str
) -> Turn:
    draw = conversation.draw
    answer = draw.choice(tuple(answers))
    text = say(draw, draw.choice(answers[answer]))
    if conversation.deliberate:
        text = deliberately(draw, text)
        why = (
            f"The user wants me to think carefully. {why} "
            "I have nothing to look up for this. So I just answer."
        )
    return Turn(text, [reply(why, answer, skill)], skill, skill)


def identity_turn(conversation: Conversation) -> Turn:
    return _fixed(conversation, IDENTITY, "identity", "The user asks about me.")


def chat_turn(conversation: Conversation) -> Turn:
    return _fixed(conversation, CHAT, "chat", "This is small talk.")


def unknown_turn(conversation: Conversation) -> Turn:
    """Anything else; `{p}` are invented words, so that nonsense lands here too."""
    draw = conversation.draw
    forms = UNKNOWN
    if conversation.tools:
        forms = tuple(f for f in UNKNOWN if not TOOLISH.search(f))
    text = say(
        draw, draw.choice(forms), x=_things(draw), y=_things(draw), n=draw.choice(NAMES),
        d=draw.integer(100, 999), p=pseudo_word(draw), c=draw.choice(COUNTRIES).name,
    )  # fmt: skip
    return sorry_turn(conversation, text, "I have not learned this.")


def _things(draw: Draw) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(1 + draw.chance(0.3)))


def sorry_turn(conversation: Conversation, text: str, why: str) -> Turn:
    """The honest answer to `text`."""
    if conversation.deliberate:
        text = deliberately(conversation.draw, text)
        why = (
            "The user wants me to think carefully. I look at the question. "
            f"It is not one of the things I can do. {why}"
        )
    return Turn(text, [reply(why, SORRY, "fallback")], "fallback", "fallback")


def dangling_turn(conversation: Conversation) -> Turn:
    """A follow-up with nothing before it."""
    draw = conversation.draw
    country = draw.choice(COUNTRIES)
    text = say(draw, draw.choice(FOLLOW_UPS), country=surface(draw, country))
    answer = f"What would you like to know about {country.name}?"
    why = f"There is no question about {country.name} before this."
    return Turn(text, [reply(why, answer, "fallback")], "fallback", "dangling")
