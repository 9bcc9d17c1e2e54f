"""The engine's events -> the JSON of one whole chat completion, and what its chunks share with it.

Knows OpenAI's response shapes; no HTTP, no engine. One `Answer` per request: it stamps the same
id, created and model on everything it makes.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from server import __version__
from server.api.cache_wire import cache_json
from server.api.logprobs_wire import chat_logprobs
from server.engine.events import (
    CacheReport,
    ContentDelta,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

FINGERPRINT = f"mxserve-{__version__}"
SERVICE_TIER = "default"
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer share. `created` is in Unix seconds."""

    model: str
    created: int
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    service_tier: str | None = SERVICE_TIER

    def head(self, kind: str) -> Json:
        head: Json = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }
        if self.service_tier is not None:
            head["service_tier"] = self.service_tier
        return head


@dataclass(frozen=True, slots=True)
class Form:
    """What the request makes of its answer: the number of choices, whether they have log
    probabilities, whether a call is a `function_call` (its first name) and not one of `tool_calls`,
    and text that goes before each choice's."""

    n: int = 1
    logprobs: bool = False
    functions: bool = False
    prefix: str = ""

    def reason(self, event: Finished) -> str:
        """The wire's finish_reason."""
        called = self.functions and event.reason == "tool_calls"
        return "function_call" if called else event.reason


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
        self._prompt_tokens = 0
        self._tokens: dict[int, int] = {}
        self.cache: CacheReport | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, Finished):
            self._waiting -= 1
            self._usages.append(event.usage)
            self._tokens[event.choice] = event.usage.completion_tokens
        elif isinstance(event, (ReasoningDelta, ContentDelta, ToolCallDelta)):
            self._tokens[event.choice] = event.tokens
        elif isinstance(event, Started):
            self.cache = event.cache
            self._prompt_tokens = event.prompt_tokens

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

    def so_far(self) -> Json:
        """The usage up to the last event."""
        completion = sum(self._tokens.values())
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self._prompt_tokens + completion,
        }


@dataclass(slots=True)
class _Choice:
    form: Form
    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: dict[int, Json] = field(default_factory=dict)
    reason: str | None = None

    def add(self, event: Event) -> None:
        if isinstance(event, ReasoningDelta):
            self.reasoning.append(event.text)
        elif isinstance(event, ContentDelta):
            self.content.append(event.text)
            self.logprobs += event.logprobs
        elif isinstance(event, ToolCallDelta):
            self._add_call(event)
        elif isinstance(event, Finished):
            self.reason = self.form.reason(event)

    def _add_call(self, event: ToolCallDelta) -> None:
        empty = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
        call = self.calls.setdefault(event.index, empty)
        call["id"] = call["id"] or event.id
        call["function"]["name"] += event.name or ""
        call["function"]["arguments"] += event.arguments

    def json(self, index: int) -> Json:
        content = self.form.prefix + "".join(self.content)
        message: Json = {
            "role": "assistant",
            "content": None if self.calls and not content else content,
            "refusal": None,
            "annotations": [],
        }
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        calls = [call for _, call in sorted(self.calls.items())]
        if calls and self.form.functions:
            message["function_call"] = calls[0]["function"]
        elif calls:
            message["tool_calls"] = calls
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs_json(self.logprobs) if self.form.logprobs else None,
            "finish_reason": self.reason,
        }


def logprobs_json(tokens: list[TokenLogprob] | tuple[TokenLogprob, ...]) -> Json:
    """A choice's `logprobs` where they were asked for."""
    return {"content": chat_logprobs(tokens), "refusal": None}


class Whole:
    """Gathers the events of an answer that is sent in one piece."""

    def __init__(self, answer: Answer, form: Form) -> None:
        self._answer = answer
        self._choices = [_Choice(form) for _ in range(form.n)]
        self._tally = Tally(form.n)

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
