"""Repeating given words, once or several times."""

from .conversation import Conversation, Turn, reply
from .phrasing import say
from .words import code, sentence, word

ONCE = (
    "Repeat: {words}", "Repeat after me: {words}", "Please repeat: {words}", "Say: {words}",
    "Say {words}",
    "Repeat the words {words}", "Repeat these words: {words}", "Echo: {words}", "Echo {words}",
    "Repeat this: {words}", "Can you repeat this: {words}", "Write: {words}", "Just say {words}",
    'Repeat "{words}"', 'Say "{words}"', 'Say exactly "{words}".', 'Please repeat "{words}".',
    'Echo back "{words}"', "Copy these words: {words}", "Repeat exactly: {words}", "repeat {words}",
    "Reply with exactly: {words}", "Answer only with: {words}", "Output this text: {words}",
    'Can you say "{words}"?', "I say {words}, you repeat it.", "Respond with {words}",
)  # fmt: skip
TIMES = (
    "Say {words} {n} times.", "Repeat {words} {n} times.", "Say the word {words} {n} times.",
    'Say "{words}" {n} times.', "Write {words} {n} times.", "Repeat the word {words} {n} times",
    "Please say {words} {n} times.", 'Can you repeat "{words}" {n} times?',
    "{n} times {words}, please.",
)  # fmt: skip
NUMBER_WORDS = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}


def repeat_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    several = draw.chance(0.3)

    def make() -> str:
        if draw.chance(0.06):
            return code(draw)
        if not several and draw.chance(0.25 if conversation.drill else 0.12):
            return sentence(draw)
        count = 1 if several else draw.integer(1, 6)
        words = [word(draw) for _ in range(count)]
        if not several and draw.chance(0.12):  # a sentence of some kind
            joint = draw.choice((", ", " ", " "))
            return joint.join(words).capitalize() + draw.choice("!?.")
        return " ".join(words)

    words = draw.payload("repeat", make)
    if several:
        n = draw.integer(2, 4)
        text = say(draw, draw.choice(TIMES), words=words, n=draw.choice(NUMBER_WORDS[n]))
        answer = " ".join([words] * n)
        thought = f"I say {words} {NUMBER_WORDS[n][0]} times."
    else:
        text = say(draw, draw.choice(ONCE), words=words)
        answer = words
        thought = f"I repeat: {words}"
    if conversation.deliberate:
        text = (
            f"{draw.choice(('Think carefully.', 'Think step by step.', 'Take your time.'))} {text}"
        )
        thought = (
            f"The user wants me to think carefully. The words to say are: {words}\n"
            f"I must not change them. {thought}\nThis is what I will answer."
        )
    return Turn(text, [reply(thought, answer, "repeat")], "repeat", "repeat")
