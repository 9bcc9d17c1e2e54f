"""The engine's events -> the JSON of text completions, whole and in chunks.

Knows OpenAI's legacy shapes; no HTTP, no engine. Both forms are made of the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.api.chat_wire import Answer, Tally
from server.api.completions_prompts import Prompt
from server.api.logprobs_wire import LegacyLogprobs, joined
from server.api.merged import Numbered
from server.engine.events import CacheReport, ContentDelta, Event, Finished, PromptLogprobs, Started

OBJECT = "text_completion"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """What the request makes of its answer: its prompts, `n` choices for each, how many log
    probabilities (None: no), whether the prompt goes before the answer, and whether there is no
    answer at all but what is known of the prompt."""

    prompts: Sequence[Prompt]
    n: int = 1
    logprobs: int | None = None
    echo: bool = False
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """More of choice `index`. reason: its finish_reason, in its last piece."""

    index: int
    text: str
    logprobs: Json | None = None
    reason: str | None = None

    def json(self) -> Json:
        return {
            "index": self.index,
            "text": self.text,
            "logprobs": self.logprobs,
            "finish_reason": self.reason,
        }


class Pieces:
    """Makes events into pieces, and counts usage. Choice c of prompt p has index p * n + c."""

    def __init__(self, form: CompletionForm) -> None:
        self._form = form
        self._tallies = [Tally(form.n) for _ in form.prompts]
        count = len(form.prompts) * form.n
        self._logprobs = [LegacyLogprobs(form.logprobs or 0) for _ in range(count)]

    def add(self, item: Event | Numbered) -> Iterator[Piece]:
        number, event = (item.number, item.event) if isinstance(item, Numbered) else (0, item)
        self._tallies[number].add(event)
        form = self._form
        if isinstance(event, Started) and form.echo and form.logprobs is None:
            for index in self._choices(number):
                yield Piece(index, form.prompts[number].text)
        elif isinstance(event, PromptLogprobs) and form.echo:
            prompt = form.prompts[number]
            for index in self._choices(number):
                lists = self._logprobs[index].of_prompt(event.items, prompt.first)
                yield Piece(index, prompt.text, lists)
        elif isinstance(event, ContentDelta) and not form.nothing:
            index = number * form.n + event.choice
            lists = None
            if form.logprobs is not None and event.logprobs:
                lists = self._logprobs[index].of_answer(event.logprobs)
            yield Piece(index, event.text, lists)
        elif isinstance(event, Finished):
            reason = "length" if form.nothing else event.reason
            yield Piece(number * form.n + event.choice, "", None, reason)

    def _choices(self, number: int) -> range:
        return range(number * self._form.n, (number + 1) * self._form.n)

    @property
    def complete(self) -> bool:
        return all(tally.complete for tally in self._tallies)

    @property
    def cache(self) -> CacheReport | None:
        """What the prompt cache did, where there is one prompt."""
        return self._tallies[0].cache if len(self._tallies) == 1 else None

    def extension(self) -> Json:
        return self._tallies[0].extension() if len(self._tallies) == 1 else {}

    def usage(self) -> Json:
        """The usage of all prompts. Needs `complete`."""
        usages = [tally.json() for tally in self._tallies]
        cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
        return {**self._sum(usages), "prompt_tokens_details": {"cached_tokens": cached}}

    def usage_so_far(self) -> Json:
        return self._sum([tally.so_far() for tally in self._tallies])

    def _sum(self, usages: list[Json]) -> Json:
        prompt = sum(usage["prompt_tokens"] for usage in usages)
        completion = sum(usage["completion_tokens"] for usage in usages)
        if self._form.nothing:
            completion = 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


@dataclass(slots=True)
class _Text:
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    reason: str | None = None


class WholeText:
    """Gathers the events of an answer that is sent in one piece."""

    def __init__(self, answer: Answer, form: CompletionForm) -> None:
        self._answer = answer
        self._form = form
        self._pieces = Pieces(form)
        self._choices = [_Text() for _ in range(len(form.prompts) * form.n)]

    def add(self, event: Event) -> None:
        for piece in self._pieces.add(event):
            choice = self._choices[piece.index]
            choice.texts.append(piece.text)
            choice.reason = piece.reason
            if piece.logprobs is not None:
                choice.logprobs.append(piece.logprobs)

    @property
    def complete(self) -> bool:
        return self._pieces.complete

    @property
    def cache(self) -> CacheReport | None:
        return self._pieces.cache

    def json(self) -> Json:
        """The response body. Needs `complete`."""
        body = self._answer.head(OBJECT)
        body["choices"] = [self._choice(i, choice) for i, choice in enumerate(self._choices)]
        body["usage"] = self._pieces.usage()
        return {**body, **self._pieces.extension()}

    def _choice(self, index: int, choice: _Text) -> Json:
        lists = None if self._form.logprobs is None else joined(choice.logprobs)
        return Piece(index, "".join(choice.texts), lists, choice.reason).json()


class TextChunks:
    """Makes the chunks of a streamed answer, event by event. With `continuous_usage` each has the
    usage so far."""

    def __init__(
        self,
        answer: Answer,
        form: CompletionForm,
        *,
        include_usage: bool = False,
        continuous_usage: bool = False,
    ) -> None:
        self._answer = answer
        self._pieces = Pieces(form)
        self._include_usage = include_usage
        self._continuous_usage = continuous_usage

    def add(self, event: Event) -> Iterator[Json]:
        for piece in self._pieces.add(event):
            chunk = self._answer.head(OBJECT)
            chunk["choices"] = [piece.json()]
            if self._include_usage:
                chunk["usage"] = self._pieces.usage_so_far() if self._continuous_usage else None
            elif piece.reason is not None and self.complete:
                chunk |= self._pieces.extension()
            yield chunk

    @property
    def complete(self) -> bool:
        return self._pieces.complete

    def closing(self) -> Iterator[Json]:
        """What follows the last choice: the usage, where it was asked for."""
        if self._include_usage:
            chunk = self._answer.head(OBJECT)
            chunk |= {"choices": [], "usage": self._pieces.usage()}
            yield {**chunk, **self._pieces.extension()}
