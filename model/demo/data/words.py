"""Words to repeat and remember: common ones, invented ones, codes."""

from .draw import Draw
from .lexicon import COMMON, SYLLABLES, WORDS


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


def odd_word(draw: Draw) -> str:
    """Letters of any kind: no part of it can have been seen before."""
    vowels, consonants = "aaeeiioouy", "bccddffgghhjkllmmnnpprrssttvwxz"
    letters = [draw.choice(vowels if draw.chance(0.42) else consonants)]
    while len(letters) < draw.integer(3, 9):
        letters.append(draw.choice(vowels if draw.chance(0.42) else consonants))
    return "".join(letters)


def sentence(draw: Draw) -> str:
    """Any words in any order, as somebody might type them."""
    count = draw.integer(2, 8)
    parts = [
        odd_word(draw) if draw.chance(0.12) else draw.choice(COMMON if draw.chance(0.8) else WORDS)
        for _ in range(count)
    ]
    text = " ".join(parts)
    if draw.chance(0.4):
        text = text[:1].upper() + text[1:]
    return text + draw.choice(("", "", "", ".", "!", "?"))


def word(draw: Draw) -> str:
    """Mostly a common word, in common spellings."""
    make = draw.rng.random()
    text = (
        pseudo_word(draw) if make < 0.15 else odd_word(draw) if make < 0.18 else draw.choice(WORDS)
    )
    if make > 0.95:
        text = draw.choice(COMMON)
    if draw.chance(0.12):
        return text.capitalize()
    if draw.chance(0.04) and len(text) < 7:
        return text.upper()
    return text
