"""The engine's events -> Anthropic's message, whole and as stream events.

Knows the shapes and order of events; no HTTP, no engine. A whole message is its own stream, folded.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sse_starlette import ServerSentEvent

from server.api import sse
from server.api.anthropic_errors import engine_body
from server.api.cache_wire import cache_json
from server.api.errors import engine_error_body
from server.engine.errors import EngineError
from server.engine.events import (
    CacheReport,
    ContentDelta,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    ToolCallDelta,
)

# Thoughts are told apart by their text, so that any signature, or none, is as good: this one is for
# clients that want to see some.
SIGNATURE = "bXhzZXJ2ZQ=="

Json = dict[str, Any]

_NO_DELTA = ("cache_creation", "service_tier", "inference_geo", "speed")
_PIECES = {"thinking_delta": "thinking", "text_delta": "text", "input_json_delta": "partial_json"}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer share. cut_to_context: the context ends it before max_tokens.
    shows_thought: the text of thoughts is sent. silent: nothing of the answer is wanted, only that
    the prompt was read."""

    model: str
    cut_to_context: bool = False
    shows_thought: bool = True
    silent: bool = False
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")


def usage_json(prompt: int, cached: int, output: int = 0, reasoning: int = 0) -> Json:
    """Tokens; those of the prompt that came from the cache are not among the input tokens."""
    return {
        "input_tokens": prompt - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"thinking_tokens": reasoning},
        "server_tool_use": None,
        "service_tier": "standard",
        "inference_geo": None,
        "speed": None,
    }


class Events:
    """Makes the stream's events. A block begins with its first text that is not blank: blank text
    alone, as between two calls, is none, but stays part of the text that follows."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._index = -1
        self._open: str | None = None  # the kind of the block that is open
        self._call: int | None = None  # the engine's number of the call that is open
        self._held = {"thinking": "", "text": ""}
        self._finished: Finished | None = None
        self.cache: CacheReport | None = None

    def add(self, event: Event) -> Iterator[Json]:
        """The events that `event` becomes."""
        if isinstance(event, Started):
            self.cache = event.cache
            yield {"type": "message_start", "message": self._opening(event)}
            yield {"type": "ping"}
        elif isinstance(event, Finished):
            yield from self._stop()
            self._finished = event
        elif self._answer.silent:
            return
        elif isinstance(event, ReasoningDelta):
            yield from self._text("thinking", event.text)
        elif isinstance(event, ContentDelta):
            yield from self._text("text", event.text)
        elif isinstance(event, ToolCallDelta):
            yield from self._tool_use(event)

    @property
    def complete(self) -> bool:
        return self._finished is not None

    def closing(self) -> Iterator[Json]:
        """The last events. Needs `complete`."""
        finished, silent = self._finished, self._answer.silent
        assert finished is not None  # noqa: S101 - what `complete` says
        used = finished.usage
        counts = (0, 0) if silent else (used.completion_tokens, used.reasoning_tokens)
        usage = usage_json(used.prompt_tokens, used.cached_tokens, *counts)
        delta = {
            "type": "message_delta",
            "delta": {
                "stop_reason": self._stop_reason(finished),
                "stop_sequence": None if silent else finished.stop,
                "stop_details": None,
                "container": None,
            },
            "usage": {name: count for name, count in usage.items() if name not in _NO_DELTA},
        }
        if self.cache is not None:
            delta["x_mxserve"] = {"cache": cache_json(self.cache)}
        yield delta
        yield {"type": "message_stop"}

    def _opening(self, started: Started) -> Json:
        return {
            "id": self._answer.id,
            "type": "message",
            "role": "assistant",
            "model": self._answer.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "container": None,
            "usage": usage_json(started.prompt_tokens, started.cached_tokens),
        }

    def _stop_reason(self, finished: Finished) -> str:
        if self._answer.silent:
            return "max_tokens"
        if finished.stop is not None:
            return "stop_sequence"
        if finished.reason == "length" and self._answer.cut_to_context:
            return "model_context_window_exceeded"
        return _STOPS[finished.reason]

    def _text(self, kind: str, text: str) -> Iterator[Json]:
        if self._open != kind:
            text = self._held[kind] + text
            blank = not text.strip()
            self._held[kind] = text if blank else ""
            if blank:
                return
            rest = {"signature": ""} if kind == "thinking" else {"citations": None}
            yield from self._start(kind, {"type": kind, kind: "", **rest})
        if text and (kind == "text" or self._answer.shows_thought):
            yield self._delta({"type": f"{kind}_delta", kind: text})

    def _tool_use(self, event: ToolCallDelta) -> Iterator[Json]:
        if self._open != "tool_use" or self._call != event.index:
            block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            yield from self._start("tool_use", {**block, "caller": {"type": "direct"}})
            self._call = event.index
        if event.arguments:
            yield self._delta({"type": "input_json_delta", "partial_json": event.arguments})

    def _start(self, kind: str, block: Json) -> Iterator[Json]:
        yield from self._stop()
        self._index += 1
        self._open = kind
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _stop(self) -> Iterator[Json]:
        if self._open is None:
            return
        if self._open == "thinking":
            yield self._delta({"type": "signature_delta", "signature": SIGNATURE})
        self._open = None
        yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


class Frames:
    """A streamed answer as frames of server-sent events."""

    def __init__(self, answer: Answer, request_id: str | None = None) -> None:
        self._events = Events(answer)
        self._request_id = request_id

    def add(self, event: Event) -> Iterator[bytes]:
        return map(_frame, self._events.add(event))

    @property
    def complete(self) -> bool:
        return self._events.complete

    def closing(self) -> Iterator[bytes]:
        return map(_frame, self._events.closing())

    def failed(self, error: EngineError) -> Iterator[bytes]:
        kind, body = engine_error_body(error)
        yield _frame(engine_body(error, kind.status, body["error"]["param"], self._request_id))


def _frame(event: Json) -> bytes:
    return sse.named_frame(event["type"], event)


def ping() -> ServerSentEvent:
    """A keep-alive that is an event, as these clients count nothing else."""
    return ServerSentEvent(data='{"type": "ping"}', event="ping", sep=sse.SEPARATOR)


class Whole:
    """Gathers the events of an answer that is sent in one piece."""

    def __init__(self, answer: Answer) -> None:
        self._events = Events(answer)
        self._message: Json = {}
        self._block: Json = {}
        self._pieces: list[str] = []

    def add(self, event: Event) -> None:
        for told in self._events.add(event):
            self._fold(told)

    @property
    def complete(self) -> bool:
        return self._events.complete

    @property
    def cache(self) -> CacheReport | None:
        """What the prompt cache did; None before the request started."""
        return self._events.cache

    def json(self) -> Json:
        """The message. Needs `complete`."""
        delta = next(self._events.closing())
        self._message |= delta["delta"]
        self._message["usage"] |= delta["usage"]
        return {**self._message, **{key: delta[key] for key in ("x_mxserve",) if key in delta}}

    def _fold(self, told: Json) -> None:
        if told["type"] == "message_start":
            self._message = told["message"]
        elif told["type"] == "content_block_start":
            self._block, self._pieces = told["content_block"], []
        elif told["type"] == "content_block_delta":
            delta = told["delta"]
            if delta["type"] == "signature_delta":
                self._block["signature"] = delta["signature"]
            else:
                self._pieces.append(delta[_PIECES[delta["type"]]])
        elif told["type"] == "content_block_stop":
            self._end_block()

    def _end_block(self) -> None:
        block, text = self._block, "".join(self._pieces)
        if block["type"] == "tool_use":
            try:
                block["input"] = json.loads(text)
            except ValueError:
                return  # a call that was cut off: there is no input that could be given for it
        else:
            block[block["type"]] = text
        self._message["content"].append(block)
