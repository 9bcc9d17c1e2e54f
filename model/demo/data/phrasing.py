"""How people really type: politeness, lower case, missing punctuation, slips of the finger."""

import re

from .draw import Draw

OPENERS = (
    "please",
    "hi,",
    "hello,",
    "hey,",
    "ok,",
    "now",
    "so",
    "next question:",
    "quick question:",
    "hi!",
    "hello!",
    "well,",
    "good,",
    "thanks.",
    "great.",
    "one more:",
    "um,",
    "okay,",
)
REQUESTS = (
    "could you tell me",
    "can you tell me",
    "please tell me",
    "tell me",
    "do you know",
    "I would like to know",
    "i want to know",
    "hi, could you tell me",
    "would you tell me",
    "i need to know",
    "let me know",
    "just tell me",
)
CLOSERS = ("please", "thanks", "thank you", "ok?", "if you can", "for me", "quickly", "now")
DELIBERATE = (
    "Think carefully.",
    "Think step by step.",
    "Take your time.",
    "Think hard about it.",
    "Think it through.",
    "Let's think step by step.",
    "Please think carefully before you answer.",
    "Reason step by step.",
    "Think for a long time.",
    "Work it out carefully.",
    "Double-check your answer.",
    "Explain your thinking to yourself first.",
)
_SLOT = re.compile(r"\{[a-z_]+\}")


def _slip(draw: Draw, text: str) -> str:
    """One typing slip outside the slots of a template."""
    places = [
        m.span() for m in re.finditer(r"[a-z]{4,}", _SLOT.sub(lambda m: "#" * len(m[0]), text))
    ]
    if not places:
        return text
    start, end = draw.choice(places)
    i = draw.integer(start + 1, end - 2)
    kind = draw.integer(0, 2)
    if kind == 0:
        return text[:i] + text[i + 1 :]
    if kind == 1:
        return text[:i] + text[i + 1] + text[i] + text[i + 2 :]
    return text[:i] + text[i] + text[i:]


def say(draw: Draw, template: str, *, loose: bool = True, **slots: object) -> str:
    """Fills `template` and roughens it. Slot values stay verbatim, so that copying is exact."""
    text = template
    if loose:
        if draw.chance(0.25):
            text = text[:1].lower() + text[1:] if not text.startswith("{") else text
        if draw.chance(0.15):
            text = _SLOT.sub(lambda m: m[0], text).lower()
        if draw.chance(0.2):
            text = text.rstrip("?.!")
        if draw.chance(0.12):
            text = f"{draw.choice(OPENERS)} {text}"
            text = text if draw.chance(0.4) else text[:1].upper() + text[1:]
        if draw.chance(0.06) and not text.endswith(("}", ":")):
            text = f"{text.rstrip('?.!')}, {draw.choice(CLOSERS)}{draw.choice(('', '.', '?', '!'))}"
        if draw.chance(0.04):
            text = _slip(draw, text)
    return text.format(**slots)


def ask(draw: Draw, noun_phrase: str, questions: tuple[str, ...]) -> str:
    """A question template: one of `questions`, or a polite request around `noun_phrase`."""
    if draw.chance(0.25):
        return f"{draw.choice(REQUESTS)} {noun_phrase}{draw.choice(('?', '.', ''))}"
    return draw.choice(questions)


def deliberately(draw: Draw, text: str) -> str:
    """Asks for long thinking, before or after the question."""
    phrase = draw.choice(DELIBERATE)
    if draw.chance(0.3):
        phrase = phrase.lower().rstrip(".")
        return f"{phrase}: {text}" if draw.chance(0.5) else f"{text} {phrase}"
    return f"{phrase} {text}" if draw.chance(0.4) else f"{text} {phrase}"
