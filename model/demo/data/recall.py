"""Facts the user tells and asks for later: a name, a code word, a colour, a pet, a number."""

from .conversation import Conversation, Turn, reply
from .draw import Draw
from .lexicon import COLORS, NAMES, WORDS
from .phrasing import ask, deliberately, say
from .words import code, odd_word, pseudo_word

TELL = {
    "name": (
        "My name is {value}.", "I am {value}.", "I'm {value}.", "Call me {value}.",
        "Hi, I'm {value}.",
        "Hello, my name is {value}.", "my name is {value}", "You can call me {value}.",
        "This is {value}.",
        "Hi! My name is {value}", "Please remember that my name is {value}.",
        "The name is {value}.",
    ),
    "code word": (
        "The code word is {value}.", "Remember the code word {value}.", "My code word is {value}.",
        "The secret word is {value}.", "Remember this code word: {value}",
        "Please remember the word {value}.",
        "The password is {value}.", "Keep in mind: the code word is {value}.", "code word: {value}",
        "Remember this: {value}", "The magic word is {value}.", "Here is a code word: {value}",
    ),
    "favorite color": (
        "My favorite color is {value}.", "I like {value} the most of all colors.",
        "I love the color {value}.",
        "my favorite colour is {value}", "The color I like best is {value}.",
    ),
    "pet": (
        "My pet is called {value}.", "My pet's name is {value}.", "I have a pet named {value}.",
        "I have a dog called {value}.", "My cat is called {value}.", "my pet's name is {value}",
    ),
    "number": (
        "My lucky number is {value}.", "Remember the number {value}.", "My number is {value}.",
        "The number to remember is {value}.", "Please remember this number: {value}",
    ),
}  # fmt: skip
ACKNOWLEDGE = {
    "name": "Nice to meet you, {value}.",
    "code word": "I will remember the code word {value}.",
    "favorite color": "I will remember that your favorite color is {value}.",
    "pet": "I will remember that your pet is called {value}.",
    "number": "I will remember the number {value}.",
}
NOUNS = {
    "name": "my name", "code word": "the code word", "favorite color": "my favorite color",
    "pet": "the name of my pet", "number": "the number I gave you",
}  # fmt: skip
ASK = {
    "name": (
        "What is my name?", "What's my name?", "Who am I?", "Do you remember my name?",
        "Tell me my name.",
        "What was my name again?", "what is my name", "How am I called?", "Do you know my name?",
        "Can you say my name?", "What did I say my name was?", "my name?", "Say my name.",
    ),
    "code word": (
        "What is the code word?", "What's the code word?", "What was the code word?",
        "Tell me the code word.",
        "Do you remember the code word?", "What code word did I give you?",
        "What is the secret word?",
        "What was the word I told you to remember?", "What is my code word?", "the code word?",
        "What is the password?", "Which word should you remember?",
        "What did I ask you to remember?",
        "Repeat the code word.", "What is the magic word?",
    ),
    "favorite color": (
        "What is my favorite color?", "What's my favorite colour?", "Which color do I like best?",
        "Do you remember my favorite color?", "Tell me my favorite color.", "What color do I love?",
    ),
    "pet": (
        "What is my pet called?", "What is my pet's name?", "What is the name of my pet?",
        "Do you remember my pet's name?", "How is my pet called?", "Who is my pet?",
    ),
    "number": (
        "What is my lucky number?", "What number did I tell you?",
        "Which number should you remember?",
        "What was my number?", "Do you remember my number?", "What is the number I gave you?",
    ),
}  # fmt: skip
ANSWER = {
    "name": "Your name is {value}.",
    "code word": "The code word is {value}.",
    "favorite color": "Your favorite color is {value}.",
    "pet": "Your pet is called {value}.",
    "number": "The number is {value}.",
}
UNTOLD = {
    "name": "You have not told me your name yet.",
    "code word": "You have not told me a code word yet.",
    "favorite color": "You have not told me your favorite color yet.",
    "pet": "You have not told me the name of your pet yet.",
    "number": "You have not told me a number yet.",
}
IN_SYSTEM = {
    "name": (
        "The user's name is {value}.",
        "You are talking to {value}.",
        "The name of the user is {value}.",
        "User name: {value}",
        "The user is called {value}.",
    ),
    "code word": (
        "The code word is {value}.",
        "The secret code word is {value}.",
        "Code word: {value}",
        "The password is {value}.",
        "If the user asks, the code word is {value}.",
    ),
    "favorite color": (
        "The user's favorite color is {value}.",
        "The user likes the color {value} best.",
    ),
    "pet": ("The user's pet is called {value}.", "The user has a pet named {value}."),
    "number": ("The user's lucky number is {value}.", "The number to remember is {value}."),
}
KINDS = (
    "name",
    "name",
    "name",
    "code word",
    "code word",
    "code word",
    "favorite color",
    "pet",
    "number",
)


FAR = 5  # turns between telling and asking that count as far


def value_of(draw: Draw, kind: str) -> str:
    def make() -> str:
        if kind in ("name", "pet"):
            text = draw.choice(NAMES)
            if draw.chance(0.25):
                text = (odd_word(draw) if draw.chance(0.4) else pseudo_word(draw)).capitalize()
            return text.lower() if draw.chance(0.08) else text
        if kind == "favorite color":
            return draw.choice(COLORS)
        if kind == "number":
            return str(draw.integer(1, 9999))
        if draw.chance(0.3):
            return code(draw)
        text = pseudo_word(draw) if draw.chance(0.25) else draw.choice(WORDS)
        return text.upper() if draw.chance(0.08) and len(text) < 7 else text

    if kind == "favorite color":  # too few colours to split
        return make()
    return draw.payload(kind, make)


def tell_in_system(conversation: Conversation) -> str:
    """A sentence of the system message that states a fact."""
    draw = conversation.draw
    kind = draw.choice(KINDS)
    conversation.facts[kind] = value_of(draw, kind)
    conversation.told[kind] = 0
    return draw.choice(IN_SYSTEM[kind]).format(value=conversation.facts[kind])


def tell_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    kind = draw.choice(KINDS)
    value = value_of(draw, kind)
    conversation.facts[kind] = value
    conversation.told[kind] = conversation.turn
    text = say(draw, draw.choice(TELL[kind]), value=value)
    thought = f"The user tells me: {NOUNS[kind].replace('my', 'your')} is {value}."
    if kind == "number":
        thought = f"The user tells me a number. It is {value}."
    if conversation.deliberate:
        thought += (
            f" I should keep it in mind for later. The user may ask for it. I remember {value}."
        )
        text = deliberately(draw, text)
    return Turn(
        text, [reply(thought, ACKNOWLEDGE[kind].format(value=value), "tell")], "tell", "tell"
    )


def recall_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    told = [kind for kind in KINDS if kind in conversation.facts]
    untold = [kind for kind in KINDS if kind not in conversation.facts]
    skill = "recall"
    if told and not (untold and draw.chance(0.45 if conversation.drill else 0.2)):
        kind = draw.choice(told)
        value = conversation.facts[kind]
        thought = f"The user told me before: {value}."
        answer = ANSWER[kind].format(value=value)
        if conversation.turn - conversation.told[kind] >= FAR:
            skill = "recall far"
        checked = f"I look back at what was said. There it is: {value}."
    else:
        kind = draw.choice(untold)
        thought = "I look back. I was not told this."
        answer = UNTOLD[kind]
        checked = "I look back at what was said, but it is not there."
    text = say(draw, ask(draw, NOUNS[kind], ASK[kind]))
    if conversation.deliberate:
        text = deliberately(draw, text)
        thought = (
            "The user wants me to think carefully. "
            f"This is about {NOUNS[kind].replace('my', 'your')}. {checked} {thought} "
            "So I am sure about the answer."
        )
    return Turn(text, [reply(thought, answer, skill)], skill, "recall")
