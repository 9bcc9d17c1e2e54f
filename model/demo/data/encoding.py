"""Dialogues as token ids, with the loss only on what the assistant generates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from model.demo.chat_template import render

from .dialogue import Dialogue

# What the engine writes when a thinking budget is spent.
CLOSING = "\n\nI have thought long enough, so I will answer now.\n</think>\n\n"
_ANSWER = re.compile(
    r"(?<=<\|im_start\|>assistant\n)((?:<think>\n(?:\n</think>\n\n)?)?)(.*?<\|im_end\|>)", re.S
)


@dataclass
class Example:
    """ids: the whole dialogue; learned[i]: whether ids[i] is a target."""

    ids: list[int]
    learned: list[bool]
    answers: list[
        tuple[int, int, str]
    ]  # [start, end) of what is learned of each answer, and its skill


def segments(dialogue: Dialogue) -> list[tuple[str, bool]]:
    """(text, learned) pieces whose concatenation is the rendered dialogue."""
    text = render(
        dialogue.messages, tools=dialogue.tools, preserve_thinking=dialogue.preserve_thinking
    )
    pieces: list[tuple[str, bool]] = []
    at = 0
    for match in _ANSWER.finditer(text):
        pieces.append((text[at : match.start(2)], False))
        pieces.append((match[2], True))
        at = match.end()
    return pieces


def encode(dialogues: Sequence[Dialogue], tokenizer: Tokenizer) -> list[Example]:
    """Encodes many dialogues at once; a cut thought is cut between tokens and closed."""
    pieces = []
    for dialogue in dialogues:
        parts = segments(dialogue)
        if dialogue.cut is not None:
            thought, _, answer = parts.pop()[0].partition("\n</think>\n\n")
            parts += [(thought, False), (CLOSING, False), (answer, True)]
        pieces.append(parts)
    texts = [text for parts in pieces for text, _ in parts]
    encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    examples = []
    for dialogue, parts in zip(dialogues, pieces, strict=True):
        ids: list[int] = []
        learned: list[bool] = []
        answers: list[tuple[int, int, str]] = []
        skills = iter([m["skill"] for m in dialogue.messages if m["role"] == "assistant"])
        for index, (_, target) in enumerate(parts):
            piece = next(encoded).ids
            if dialogue.cut is not None and index == len(parts) - 3:
                piece = piece[: int(dialogue.cut * len(piece))]
            if target:
                answers.append((len(ids), len(ids) + len(piece), next(skills)))
            ids += piece
            learned += [target] * len(piece)
        examples.append(Example(ids, learned, answers))
    return examples
