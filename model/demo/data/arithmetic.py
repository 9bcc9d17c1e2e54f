"""Sums of two numbers to 99, worked digit by digit in the thought."""

from .conversation import Conversation, Turn, reply
from .phrasing import ask, deliberately, say

NOUN = "the sum of {a} and {b}"
QUESTIONS = (
    "What is {a} + {b}?", "What is {a} plus {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} = ?",
    "{a}+{b}=?",
    "How much is {a} + {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "Add {a} to {b}.",
    "What's {a} + {b}?", "what's {a}+{b}", "Compute {a} + {b}.", "Calculate {a} + {b}.",
    "Calculate {a} plus {b}", "What is the sum of {a} and {b}?", "Sum of {a} and {b}?",
    "Sum {a} and {b}.",
    "{a} plus {b}?", "{a} plus {b}", "What do you get when you add {a} and {b}?",
    "If I have {a} apples and get {b} more, how many do I have?", "{a} and {b} make how many?",
    "Solve {a} + {b}.", "Can you add {a} and {b}?", "What does {a} + {b} equal?", "{a} + {b} is?",
    "There are {a} birds and {b} more come. How many birds are there?",
)  # fmt: skip
FOLLOW_UPS = (
    "And {a} + {b}?",
    "What about {a} + {b}?",
    "and {a} plus {b}?",
    "And {a}+{b}?",
    "Now {a} + {b}.",
)
OTHER = (
    "What is {a} - {b}?", "What is {a} times {b}?", "{a} * {b}", "{a} x {b}", "{a} minus {b}",
    "{a} / {b}",
    "What is {a} divided by {b}?", "Multiply {a} by {b}.", "Subtract {b} from {a}.", "{a}*{b}",
    "{a}-{b}",
    "What is the square root of {a}?", "What is {a} percent of {b}?", "How much is {a} times {b}?",
)  # fmt: skip


def worked(a: int, b: int) -> str:
    """The school method in words."""
    ones = a % 10 + b % 10
    carry = ones // 10
    tens = a // 10 + b // 10 + carry
    steps = f"Ones: {a % 10} + {b % 10} = {ones}, write {ones % 10}, carry {carry}. "
    steps += f"Tens: {a // 10} + {b // 10} + {carry} = {tens}."
    return f"{steps} So {a} + {b} = {a + b}."


def thought(conversation: Conversation, a: int, b: int) -> str:
    if not conversation.deliberate:
        return worked(a, b)
    return (
        f"The user wants me to think carefully. I have to add {a} and {b}. {worked(a, b)} "
        f"Let me check it the other way round. {worked(b, a)} Both give {a + b}, so this is right."
    )


def pair(conversation: Conversation) -> tuple[int, int]:
    draw = conversation.draw

    def make() -> tuple[int, int]:
        top = 99 if draw.chance(0.8) else 12
        return draw.integer(0, top), draw.integer(0, top)

    return draw.payload("sum", make)


def sum_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw
    a, b = pair(conversation)
    follows = conversation.topic == "sum" and draw.chance(0.3)
    form = draw.choice(FOLLOW_UPS) if follows else ask(draw, NOUN, QUESTIONS)
    text = say(draw, form, a=a, b=b)
    if conversation.deliberate:
        text = deliberately(draw, text)
    replies = [reply(thought(conversation, a, b), f"{a} + {b} = {a + b}", "sum")]
    return Turn(text, replies, "sum", "sum")


def other_arithmetic_turn(conversation: Conversation) -> Turn:
    """What the model never learned: it says so."""
    draw = conversation.draw
    if draw.chance(0.3):
        a, b = draw.integer(100, 9999), draw.integer(0, 9999)
        form = draw.choice(QUESTIONS)
    else:
        a, b = draw.integer(1, 150), draw.integer(1, 150)
        form = draw.choice(OTHER)
    text = say(draw, form, a=a, b=b)
    why = "This is not a sum of two numbers up to 99."
    sentence = "I am only a small demo model. I can only add two numbers up to 99."
    return Turn(text, [reply(why, sentence, "fallback")], "fallback", "arithmetic")
