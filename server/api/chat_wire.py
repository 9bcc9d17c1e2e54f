"""The engine's events -> the JSON of chat completions, whole and in chunks.

Knows OpenAI's response shapes; no HTTP, no engine. One `Answer` per request: it stamps the same
id, created and model on everything it makes.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from server import __version__
from server.api import sse
from server.api.cache_wire import cache_json
from server.api.errors import engine_error_body
from server.engine.errors import EngineError
from server.engine.events import (
    CacheReport,
    ContentDelta,
    Event,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    Usage,
)

FINGERPRINT = f"mxserve-{__version__}"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer share. `created` is in Unix seconds."""

    model: str
    created: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")

    def head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }


def usage_json(usages: list[Usage], cached_tokens: int) -> Json:
    """One usage for all choices: the prompt counts once, completions add up."""
    prompt = usages[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages),
            "thinking_cut": any(usage.thinking_cut for usage in usages),
        },
    }


class Tally:
    """Counts a request's usage from its events, and keeps what the cache did for it."""

    def __init__(self, n: int) -> None:
        self._waiting = n
        self._usages: list[Usage] = []
        self.cache: CacheReport | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._waiting -= 1
            self._usages.append(event.usage)
        elif isinstance(event, Started):
            self.cache = event.cache

    def extension(self) -> Json:
        """This server's own field of a whole answer or of a stream's last chunk."""
        return {"x_mxserve": {"cache": cache_json(self.cache)}} if self.cache else {}

    @property
    def complete(self) -> bool:
        """Every choice has finished."""
        return self._waiting <= 0

    def json(self) -> Json:
        """Needs `complete`."""
        return usage_json(self._usages, self._usages[0].cached_tokens)


class Frames:
    """A streamed answer as frames: its chunks, then `[DONE]`."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def add(self, event: Event) -> Iterator[bytes]:
        return map(sse.frame, self._chunks.add(event))

    @property
    def complete(self) -> bool:
        return self._chunks.complete

    def closing(self) -> Iterator[bytes]:
        yield from map(sse.frame, self._chunks.closing())
        yield sse.DONE

    def failed(self, error: EngineError) -> Iterator[bytes]:
        yield sse.frame(engine_error_body(error)[1])


class Chunks:
    """Makes the chunks of a streamed answer, event by event."""

    def __init__(self, answer: Answer, n: int, *, include_usage: bool) -> None:
        self._answer = answer
        self._include_usage = include_usage
        self._unopened = dict.fromkeys(range(n))
        self._tally = Tally(n)

    def add(self, event: Event) -> Iterator[Json]:
        """The chunks `event` becomes; the role comes first, once for each choice."""
        self._tally.add(event)
        if isinstance(event, Started):
            for choice in list(self._unopened):
                yield from self._opening(choice)
            return
        if isinstance(event, PrefillProgress):
            return
        choice = getattr(event, "choice", None)
        if choice is None:
            return
        yield from self._opening(choice)
        if isinstance(event, Finished):
            chunk = self._chunk(choice, {}, event.reason)
            last = self.complete and not self._include_usage
            yield {**chunk, **self._tally.extension()} if last else chunk
        elif isinstance(event, ReasoningDelta):
            yield self._chunk(choice, {"reasoning_content": event.text})
        elif isinstance(event, ContentDelta):
            yield self._chunk(choice, {"content": event.text})
        elif isinstance(event, ToolCallDelta):
            yield self._chunk(choice, {"tool_calls": [_call_delta(event)]})

    @property
    def complete(self) -> bool:
        return self._tally.complete

    def closing(self) -> Iterator[Json]:
        """What follows the last choice: the usage, where it was asked for."""
        if self._include_usage:
            chunk = self._answer.head("chat.completion.chunk")
            chunk |= {"choices": [], "usage": self._tally.json()}
            yield {**chunk, **self._tally.extension()}

    def _opening(self, choice: int) -> Iterator[Json]:
        if choice in self._unopened:
            del self._unopened[choice]
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def _chunk(self, choice: int, delta: Json, reason: str | None = None) -> Json:
        chunk = self._answer.head("chat.completion.chunk")
        chunk["choices"] = [
            {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        ]
        if self._include_usage:
            chunk["usage"] = None
        return chunk


def _call_delta(event: ToolCallDelta) -> Json:
    function: Json = {"arguments": event.arguments}
    delta: Json = {"index": event.index, "function": function}
    if event.id is not None:
        delta = {"index": event.index, "id": event.id, "type": "function", "function": function}
    if event.name is not None:
        delta["function"] = {"name": event.name, **function}
    return delta


@dataclass(slots=True)
class _Choice:
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: dict[int, Json] = field(default_factory=dict)
    reason: str | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        elif isinstance(event, ContentDelta):
            self.content.append(event.text)
        elif isinstance(event, ToolCallDelta):
            self._add_call(event)
        elif isinstance(event, Finished):
            self.reason = event.reason

    def _add_call(self, event: ToolCallDelta) -> None:
        empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(event.index, empty)
        call["id"] = call["id"] or event.id
        call["function"]["name"] += event.name or ""
        call["function"]["arguments"] += event.arguments

    def json(self, index: int) -> Json:
        content = "".join(self.content)
        message: Json = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
            "annotations": [],
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = [call for _, call in sorted(self.calls.items())]
        return {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": self.reason,
        }


class Whole:
    """Gathers the events of an answer that is sent in one piece."""

    def __init__(self, answer: Answer, n: int) -> None:
        self._answer = answer
        self._choices = [_Choice() for _ in range(n)]
        self._tally = Tally(n)

    def add(self, event: Event) -> None:
        self._tally.add(event)
        choice = getattr(event, "choice", None)
        if choice is not None:
            self._choices[choice].add(event)

    @property
    def complete(self) -> bool:
        return self._tally.complete

    @property
    def cache(self) -> CacheReport | None:
        """What the prompt cache did; None before the request started."""
        return self._tally.cache

    def json(self) -> Json:
        """The response body. Needs `complete`."""
        body = self._answer.head("chat.completion")
        body["choices"] = [choice.json(i) for i, choice in enumerate(self._choices)]
        body["usage"] = self._tally.json()
        return {**body, **self._tally.extension()}
