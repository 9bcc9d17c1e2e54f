"""The demo's byte-level BPE tokenizer, trained on the synthetic dialogues.

Letters with their leading space form the words, numbers are split into single digits (sums are
learned digit by digit), and every byte has a token, so that any text comes back unchanged.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .chat_template import render
from .data import lexicon
from .data.dialogue import Shape, make_dialogue

VOCABULARY = 2048  # rows of the embedding, a multiple of 64; the tokenizer may use fewer
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
VISIBLE = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
PATTERN = (
    r"'(?:s|t|re|ve|m|ll|d)(?![\p{L}])| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _corpus(count: int) -> Iterator[str]:
    for seed in range(count):
        dialogue = make_dialogue("train", -1 - seed, Shape(long_system=0.05))
        yield render(
            dialogue.messages, tools=dialogue.tools, preserve_thinking=dialogue.preserve_thinking
        )
    # Every word of the lexicon, with and without space and capital, becomes one token if it can.
    words = [
        *lexicon.WORDS,
        *lexicon.NAMES,
        *(w for c in lexicon.COUNTRIES for w in c.name.split()),
    ]
    words += [w for c in lexicon.COUNTRIES for w in c.capital.split()]
    for _ in range(60):
        yield "\n".join(f"{w} {w}" for w in words)
        yield "\n".join(f"{w.lower()} {w.lower()}" for w in words)


def train_tokenizer(dialogues: int = 6000) -> Tokenizer:
    """Trains on `dialogues` dialogues of the training split; takes some seconds."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = len(SPECIAL) + len(VISIBLE)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - added,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=20,
    )
    strip = SPECIAL + VISIBLE

    def texts() -> Iterator[str]:
        for text in _corpus(dialogues):
            for token in strip:
                text = text.replace(token, "")
            yield text

    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in VISIBLE])
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
