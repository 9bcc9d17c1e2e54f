"""Words to repeat and remember: common ones, invented ones, codes."""

from .draw import Draw
from .lexicon import SYLLABLES, WORDS


def pseudo_word(draw: Draw) -> str:
    """An invented word of two to four syllables; forces copying instead of remembering."""
    return "".join(draw.choice(SYLLABLES) for _ in range(draw.integer(2, 4)))


def code(draw: Draw) -> str:
    """A code such as `K7-42`, `falcon-93` or `4471`."""
    kind = draw.integer(0, 3)
    if kind == 0:
        return draw.choice("ABCDEFGHKLMNPRSTXZ") + f"{draw.integer(0, 9)}-{draw.integer(10, 99)}"
    if kind == 1:
        return f"{draw.choice(WORDS)}-{draw.integer(1, 99)}"
    if kind == 2:
        return str(draw.integer(100, 9999))
    return f"{draw.choice(WORDS)}-{draw.choice(WORDS)}"


def word(draw: Draw) -> str:
    """Mostly a common word, in common spellings."""
    text = pseudo_word(draw) if draw.chance(0.2) else draw.choice(WORDS)
    if draw.chance(0.12):
        return text.capitalize()
    if draw.chance(0.04) and len(text) < 7:
        return text.upper()
    return text
