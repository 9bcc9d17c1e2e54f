"""Counting up and down between two numbers."""

from .conversation import Conversation, Turn, reply
from .phrasing import deliberately, say

FROM_TO = (
    "Count from {a} to {b}.", "count from {a} to {b}", "Please count from {a} to {b}.",
    "Can you count from {a} to {b}?", "Count from {a} up to {b}.",
    "List the numbers from {a} to {b}.",
    "Write the numbers from {a} to {b}.", "Say the numbers {a} to {b}.",
    "Give me the numbers from {a} to {b}.",
    "Start at {a} and count to {b}.", "numbers from {a} to {b}",
    "Counting from {a} to {b}, please.",
    "Could you count from {a} to {b} for me?", "Print the numbers from {a} to {b}.",
    "count {a} to {b}",
)  # fmt: skip
TO = (
    "Count to {b}.", "count to {b}", "Can you count to {b}?", "Please count up to {b}.",
    "Count up to {b}.",
    "Count from one to {b}.", "I want you to count to {b}.", "Let's count to {b}.",
    "Could you count to {b}?",
)  # fmt: skip
DOWN = (
    "Count down from {a} to {b}.", "Count backwards from {a} to {b}.", "count down from {a} to {b}",
    "Please count down from {a} to {b}.", "Count back from {a} to {b}.",
    "Can you count down from {a} to {b}?",
)  # fmt: skip


def count_turn(conversation: Conversation) -> Turn:
    draw = conversation.draw

    def make() -> tuple[int, int]:
        low = 1 if draw.chance(0.3) else draw.integer(0, 80)
        low, high = low, low + draw.integer(2, 16)
        return (high, low) if draw.chance(0.2) else (low, high)

    start, stop = draw.payload("count", make)
    down = stop < start
    numbers = [str(n) for n in range(start, stop + (-1 if down else 1), -1 if down else 1)]
    listing = ", ".join(numbers)
    if down:
        form = draw.choice(DOWN)
    else:
        form = draw.choice(TO) if start == 1 and draw.chance(0.7) else draw.choice(FROM_TO)
    text = say(draw, form, a=start, b=stop)
    way = "down" if down else "up"
    thought = f"I start at {start}, go {way} by one and stop at {stop}."
    if conversation.deliberate:
        text = deliberately(draw, text)
        thought = (
            f"The user wants me to think carefully. {thought} I write it out first: {listing}. "
            f"The first number is {start} and the last number is {stop}. This is right."
        )
    return Turn(text, [reply(thought, listing, "count")], "count", "count")
