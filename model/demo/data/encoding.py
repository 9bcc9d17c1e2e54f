"""Dialogues as token ids, with the loss only on what the assistant generates."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from model.demo.chat_template import render
from model.thinking import CLOSING_TEXT

from .dialogue import Dialogue

END_OF_THOUGHT = "\n</think>\n\n"
_ANSWER = re.compile(
    r"(?<=<\|im_start\|>assistant\n)((?:<think>\n(?:\n</think>\n\n)?)?)(.*?<\|im_end\|>)", re.S
)

Piece = tuple[str, bool, float]  # text, whether it is learned, the share of its tokens that is kept


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


def _closed_early(parts: list[tuple[str, bool]], cuts: list[float]) -> list[Piece]:
    """The same pieces with every thought to be cut: it, the engine's closing words, the answer."""
    pieces: list[Piece] = []
    shares = iter(cuts)
    for text, learned in parts:
        share = next(shares, 1.0) if learned else 1.0
        thought, mark, answer = text.partition(END_OF_THOUGHT)
        if learned and cuts and mark:
            pieces += [(thought, False, share), (CLOSING_TEXT, False, 1.0), (answer, True, 1.0)]
        else:
            pieces.append((text, learned, 1.0))
    return pieces


def encode(dialogues: Sequence[Dialogue], tokenizer: Tokenizer) -> list[Example]:
    """Encodes many dialogues at once; thoughts to be cut are cut between tokens and closed."""
    pieces = [_closed_early(segments(dialogue), dialogue.cuts) for dialogue in dialogues]
    texts = [text for parts in pieces for text, _, _ in parts]
    encoded = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    examples = []
    for dialogue, parts in zip(dialogues, pieces, strict=True):
        ids: list[int] = []
        learned: list[bool] = []
        answers: list[tuple[int, int, str]] = []
        skills = iter([m["skill"] for m in dialogue.messages if m["role"] == "assistant"])
        for _, target, share in parts:
            piece = next(encoded).ids
            piece = piece[: int(share * len(piece))]
            if target:
                answers.append((len(ids), len(ids) + len(piece), next(skills)))
            ids += piece
            learned += [target] * len(piece)
        examples.append(Example(ids, learned, answers))
    return examples
