"""What is measured: prompts of a given length, cold and warm, and the model card's own chat.

Knows how to talk (client.py) and what to ask. Nothing of servers, statistics or output.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from server.bench.client import BenchError, ChatClient, ChatOptions, Message, Sample

SYSTEM = "You are a helpful assistant. Be concise."
CARD_TURNS = (
    "What is the capital of France?",
    "What about Germany?",
    "And Japan?",
    "Which of those three cities has the largest population?",
)
LONG_QUESTION = "Count from 1 to 60, every number."
CARD = ChatOptions(max_tokens=2048, temperature=0.6)
DECODE_TOKENS = 128
LEAST_DECODE_TOKENS = 64
TEXT = (
    "the river runs past an old stone mill and on to the quiet town where market stalls open "
    "early while bread, apples and fresh fish are sold until the bells ring at noon"
)
WORDS = tuple(TEXT.split())


@dataclass(frozen=True, slots=True)
class Measurement:
    """One sample of one workload: `name` such as "928 cold", in round `round` (from 0)."""

    name: str
    round: int
    sample: Sample


@dataclass(frozen=True, slots=True)
class Filler:
    """Text of about a wished number of prompt tokens: tokens = fixed + per_word * words."""

    fixed: float
    per_word: float

    def text(self, tokens: int, nonce: int) -> str:
        """Different for each nonce from its first word on, so that no cache knows it."""
        return words(max(1, round((tokens - self.fixed) / self.per_word)), nonce)


def words(count: int, nonce: int) -> str:
    """`count` words in an order of the nonce's own; every run of 31 holds the same words."""
    draw = random.Random(nonce)
    chosen: list[str] = []
    while len(chosen) < count:
        chosen += draw.sample(WORDS, len(WORDS))
    return f"{nonce}: " + " ".join(chosen[:count])


def dialogue(system: str) -> list[Message]:
    """A question behind a system text, as IDE assistants send it."""
    return [{"role": "system", "content": system}, {"role": "user", "content": CARD_TURNS[0]}]


def calibrate(client: ChatClient, nonce: int) -> Filler:
    """Learns from two short requests how many tokens a word of the filler takes."""
    few, many = 2 * len(WORDS), 8 * len(WORDS)
    one = ChatOptions(max_tokens=1)
    low = client.chat(dialogue(words(few, nonce)), one).prompt_tokens
    high = client.chat(dialogue(words(many, nonce + 1)), one).prompt_tokens
    if high <= low:
        raise BenchError(f"prompt_tokens did not grow with the prompt: {low}, then {high}")
    per_word = (high - low) / (many - few)
    return Filler(low - few * per_word, per_word)


def prompt_of_length(
    client: ChatClient, filler: Filler, tokens: int, nonce: int, banned: tuple[int, ...]
) -> Iterator[tuple[str, Sample]]:
    """A cold question behind `tokens` tokens, the next turn of that dialogue (warm), and a long
    continuation for the speed of decoding: of the same prompt when the tokens that end it can be
    banned, else a question with a long answer. One that came out short is left out."""
    messages = dialogue(filler.text(tokens, nonce))
    cold = client.chat(messages, ChatOptions(max_tokens=32))
    yield f"{tokens} cold", cold
    follow_up: list[Message] = [
        *messages,
        {"role": "assistant", "content": cold.text},
        {"role": "user", "content": CARD_TURNS[1]},
    ]
    yield f"{tokens} warm", client.chat(follow_up, ChatOptions(max_tokens=32))
    if not banned:
        messages = [messages[0], {"role": "user", "content": LONG_QUESTION}]
    decode = client.chat(messages, ChatOptions(max_tokens=DECODE_TOKENS, banned=banned))
    if decode.completion_tokens >= LEAST_DECODE_TOKENS:
        yield f"{tokens} decode", decode


def card_chat(client: ChatClient) -> Iterator[tuple[str, Sample]]:
    """The four turns of the model card's benchmark, thinking off, temperature 0.6."""
    messages: list[Message] = [{"role": "system", "content": SYSTEM}]
    for number, question in enumerate(CARD_TURNS, start=1):
        messages = [*messages, {"role": "user", "content": question}]
        sample = client.chat(messages, CARD)
        yield f"card turn {number}", sample
        messages = [*messages, {"role": "assistant", "content": sample.text}]
