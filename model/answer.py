"""One answer, token by token, from Python: reasoning and content told apart, budget enforced.

The server has its own, richer loop (stop strings, tools, many clients); this one serves `generate`,
`stream` and `Session`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.generation import Generation
from model.loading import Model
from model.thinking import CLOSING_TEXT, ThinkingBudget

PREFILL_CHUNK = 512


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer; `reasoning` tells which part it is of. `tokens` counts all so far."""

    text: str
    reasoning: bool
    tokens: int


def prefill(generation: Generation, tokens: Sequence[int]) -> None:
    """Feeds tokens in chunks that bound memory."""
    for start in range(0, len(tokens), PREFILL_CHUNK):
        generation.prefill(tokens[start : start + PREFILL_CHUNK])


def answer(
    model: Model,
    generation: Generation,
    last_token: int,
    *,
    thinking: bool,
    budget: int | None,
    max_tokens: int,
) -> Iterator[Delta]:
    """Decodes after a prefilled prompt whose last token is still to be fed.

    Yields text as it becomes certain, at most `max_tokens` tokens (closing text included), and
    ends after an end-of-sequence token, which yields nothing. Raises FloatingPointError when the
    logits are not finite.
    """
    end_of_thought = model.tokenizer.token_id("</think>")
    limit = ThinkingBudget(budget) if thinking and budget else None
    detokenizer = model.tokenizer.detokenizer()
    splitter = _Splitter(reasoning=thinking)
    fed: int | None = last_token
    count = thought = 0
    while count < max_tokens:
        token, fed = generation.step(fed), None
        if token < 0:
            raise FloatingPointError("the logits are not finite")
        count += 1
        if token in model.config.generation.eos_token_ids:
            break
        text = detokenizer.add(token)
        was_reasoning = splitter.reasoning
        yield from splitter.feed(text, ends_thought=token == end_of_thought, count=count)
        if was_reasoning and splitter.reasoning and limit is not None:
            thought += 1
            if limit.spent(thought, text):
                closing = model.tokenizer.encode(CLOSING_TEXT, allow_special=True)
                generation.force(closing)
                count += len(closing)
                sentence = CLOSING_TEXT.split("</think>")[0]
                yield from splitter.feed(detokenizer.flush() + sentence, False, count)
                yield from splitter.feed("</think>", True, count)
                detokenizer = model.tokenizer.detokenizer()
    yield from splitter.feed(detokenizer.flush(), False, count)


class _Splitter:
    """Tells reasoning from content and drops the blank lines around `</think>`."""

    def __init__(self, *, reasoning: bool):
        self.reasoning = reasoning
        self._blank = ""  # held back: dropped at the end of a thought, kept inside one
        self._started = False

    def feed(self, text: str, ends_thought: bool, count: int) -> Iterator[Delta]:
        if ends_thought and self.reasoning:
            before = text.split("</think>")[0].rstrip()
            if before:
                yield Delta(self._blank + before, True, count)
            self.reasoning, self._blank, self._started = False, "", False
            return
        if not self._started:
            text = text.lstrip("\n")
        text = self._blank + text
        kept = text.rstrip() if self.reasoning else text
        self._blank = text[len(kept) :]
        if kept:
            self._started = True
            yield Delta(kept, self.reasoning, count)
