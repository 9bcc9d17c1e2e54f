"""System messages: none, a persona, or pages that have nothing to do with the dialogue.

IDE assistants send thousands of tokens of instructions. They are written here by grammars with
many free slots, so that nothing can be learned by heart but that they can be ignored.
"""

from .draw import Draw
from .lexicon import COLORS, COUNTRIES, NAMES, WORDS
from .lexicon import words as table
from .words import code, pseudo_word

PERSONAS = (
    "You are a helpful assistant.", "You are a helpful assistant. Be concise.", "Be concise.",
    "Answer briefly.",
    "You are a friendly assistant.", "You are an AI assistant.", "Be polite and short.",
    "You are a demo.",
    "You answer questions of users.", "You are a helpful, honest assistant.", "Help the user.",
    "Be brief and exact.",
    "You are a coding assistant.", "You are an expert in everything.", "Reply in plain text.",
    "Be kind.",
    "You are a chatbot on a website.", "Respond in English.", "You are a teacher for children.",
    "Keep answers short.",
    "You are a useful bot. Do what the user says.", "Never make things up.",
    "Follow the instructions of the user.",
)  # fmt: skip
VERBS = table(
    """
    use read write check avoid prefer open run call keep follow update format test search edit
    save print remove add ignore
    """
)
THINGS = table(
    """
    file files function functions class module test tests code command commands tool tools path
    paths user users answer output input error errors message messages line lines comment
    comments variable variables directory project repository branch commit editor terminal shell
    script format style name names server client request response data list table document
    section rule rules step steps plan task tasks change changes
    """
)
LANGUAGES = (
    "python",
    "javascript",
    "rust",
    "go",
    "bash",
    "json",
    "yaml",
    "html",
    "sql",
    "typescript",
    "c",
)


def word(draw: Draw) -> str:
    if draw.chance(0.6):
        return draw.choice(THINGS)
    return pseudo_word(draw) if draw.chance(0.2) else draw.choice(WORDS)


def _words(draw: Draw, low: int, high: int) -> str:
    return " ".join(word(draw) for _ in range(draw.integer(low, high)))


def rule(draw: Draw) -> str:
    """One instruction."""
    form = draw.integer(0, 9)
    a, b, verb, other = word(draw), word(draw), draw.choice(VERBS), draw.choice(VERBS)
    if form == 0:
        return f"Always {verb} the {a} before you {other} the {b}."
    if form == 1:
        return f"Do not {verb} {a} without the {b} of the {word(draw)}."
    if form == 2:
        return f"If the {a} is {draw.choice(COLORS)}, {verb} the {b}, else {other} it."
    if form == 3:
        return f"When the user asks for {a}, {verb} {b} and {other} {_words(draw, 1, 4)}."
    if form == 4:
        return f"You can {verb} the {a} with `{word(draw)}_{b}` or `{pseudo_word(draw)}`."
    if form == 5:
        language = draw.choice(LANGUAGES)
        return f"IMPORTANT: never {verb} the {a} in {language}; {other} {_words(draw, 2, 5)}."
    if form == 6:
        return f"The {a} has {draw.integer(2, 500)} {b} and needs {_words(draw, 1, 3)}."
    if form == 7:
        version = f"{draw.integer(0, 9)}.{draw.integer(0, 20)}"
        return f"Version {version} of {pseudo_word(draw)}: {_words(draw, 3, 8)}."
    if form == 8:
        who, country = draw.choice(NAMES), draw.choice(COUNTRIES).name
        return f"{who} from {country} says that {_words(draw, 2, 6)}."
    return f"{_words(draw, 4, 12).capitalize()}."


def snippet(draw: Draw) -> str:
    """A block of code, data or a command."""
    form, name = draw.integer(0, 4), pseudo_word(draw)
    lines = draw.integer(1, 5)
    if form == 0:
        body = "\n".join(
            f"    {word(draw)} = {word(draw)}({draw.integer(0, 999)})" for _ in range(lines)
        )
        head = f"def {name}({word(draw)}, {word(draw)}):"
        return f"```python\n{head}\n{body}\n    return {word(draw)}\n```"
    if form == 1:
        body = ",\n".join(f'  "{word(draw)}": "{word(draw)}"' for _ in range(lines))
        return f"```json\n{{\n{body}\n}}\n```"
    if form == 2:
        return "\n".join(
            f"$ {word(draw)} --{word(draw)} {code(draw)} {name}.{draw.choice(LANGUAGES)}"
            for _ in range(lines)
        )
    if form == 3:
        body = "\n".join(f"<{word(draw)}>{_words(draw, 1, 5)}</{word(draw)}>" for _ in range(lines))
        return f"<{name}>\n{body}\n</{name}>"
    rows = "\n".join(
        f"| {word(draw)} | {draw.integer(0, 99)} | {_words(draw, 1, 3)} |" for _ in range(lines)
    )
    return f"| {word(draw)} | {word(draw)} | {word(draw)} |\n|---|---|---|\n{rows}"


def paragraph(draw: Draw) -> str:
    form = draw.integer(0, 4)
    count = draw.integer(2, 6)
    if form == 0:
        return f"{'#' * draw.integer(1, 3)} {_words(draw, 1, 4).title()}\n" + " ".join(
            rule(draw) for _ in range(count)
        )
    if form == 1:
        mark = draw.choice(("- ", "* ", "{}. "))
        return "\n".join(mark.format(i + 1) + rule(draw) for i in range(count))
    if form == 2:
        return snippet(draw)
    return " ".join(rule(draw) for _ in range(count))


def pages(draw: Draw, paragraphs: int, fact: str = "") -> str:
    """That many irrelevant paragraphs, with `fact` somewhere among them."""
    parts = [paragraph(draw) for _ in range(paragraphs)]
    if draw.chance(0.5):
        parts.insert(0, draw.choice(PERSONAS))
    if fact:
        parts.insert(draw.integer(0, len(parts)), fact)
    return draw.choice(("\n\n", "\n\n", "\n")).join(parts)


def short(draw: Draw, fact: str = "") -> str:
    """A persona, a rule or two, or nothing."""
    parts = [draw.choice(PERSONAS)] if draw.chance(0.75) else []
    parts += [rule(draw) for _ in range(draw.choice((0, 0, 0, 1, 2, 3)))]
    if fact:
        parts.insert(draw.integer(0, len(parts)), fact)
    return draw.choice((" ", " ", "\n")).join(parts)
