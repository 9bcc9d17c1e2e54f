"""Endless batches of similar lengths, by seed, so that a run can be resumed."""
# pyright: reportMissingImports=false
# (torch is an optional extra)

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from .dialogue import Shape, make_dialogue
from .draw import Split
from .encoding import Example, encode


@dataclass
class Batch:
    """ids: [B, T]; learned: [B, T], true where ids is a target."""

    ids: Tensor
    learned: Tensor
    examples: list[Example]


def collate(examples: list[Example]) -> Batch:
    length = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    learned = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        learned[row, : len(example.ids)] = torch.tensor(example.learned)
    return Batch(ids, learned, examples)


def by_length(examples: list[Example], tokens: int) -> list[Batch]:
    """Batches of at most `tokens` tokens (padding counted), shortest dialogues first."""
    batches, rows = [], []
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if rows and (len(rows) + 1) * len(example.ids) > tokens:
            batches.append(collate(rows))
            rows = []
        rows.append(example)
    return [*batches, collate(rows)] if rows else batches


def stream(
    split: Split,
    start: int,
    shape: Callable[[], Shape],
    tokenizer: Tokenizer,
    tokens: int,
    pool: int = 1024,
) -> Iterator[tuple[int, Batch]]:
    """(seed after the pool this batch came from, batch), forever."""
    seed = start
    while True:
        made = shape()
        examples = encode([make_dialogue(split, seed + i, made) for i in range(pool)], tokenizer)
        seed += pool
        batches = by_length(examples, tokens)
        random.Random(seed).shuffle(batches)
        for batch in batches:
            yield seed, batch
