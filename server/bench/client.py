"""One chat completion over HTTP, with the times at which its tokens came.

Knows the OpenAI wire as far as every server speaks it, and a clock. Nothing of workloads, of how a
server is started or of statistics. The same code measures mxserve and its peers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import httpx

from server.sse_reader import EventReader

# Text that follows sooner is read out of a queue, not as it is generated.
LUMP_S = 0.0005

Message = Mapping[str, str]


class BenchError(RuntimeError):
    """A measurement could not be made; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measured answer. Times in seconds from the moment the request was sent.

    first_s: the first piece of text; end_s: the chunk with the finish reason; arrivals: at how many
    times text came, more than LUMP_S apart. Token counts are the server's own usage;
    `reported_cached` is False when it says nothing about its cache.
    """

    prompt_tokens: int
    cached_tokens: int
    reported_cached: bool
    completion_tokens: int
    first_s: float
    end_s: float
    finish_reason: str
    text: str
    arrivals: int

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens that were really computed, per second until the first text."""
        return (self.prompt_tokens - self.cached_tokens) / self.first_s

    @property
    def decode_rate(self) -> float | None:
        """(generated - 1) / (t_end - t_first).

        None for answers of one token, and for those that came in lumps: when a busy machine hands
        over many tokens at once, the time between first and last says nothing of the model.
        """
        if self.completion_tokens < 2 or self.end_s <= self.first_s:
            return None
        if self.arrivals < self.completion_tokens / 2:
            return None
        return (self.completion_tokens - 1) / (self.end_s - self.first_s)

    def as_json(self) -> dict[str, Any]:
        """All fields and both rates."""
        rates = {"prefill_rate": self.prefill_rate, "decode_rate": self.decode_rate}
        return {**asdict(self), **rates}


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What a workload asks of an answer. `banned` are token ids that must not be generated."""

    max_tokens: int
    temperature: float = 0.0
    thinking: bool = False
    banned: tuple[int, ...] = ()

    def body(self, model: str, messages: Sequence[Message]) -> dict[str, Any]:
        """The request, in fields that mxserve and mlx-lm both know."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "chat_template_kwargs": {"enable_thinking": self.thinking},
        }
        if self.banned:
            body["logit_bias"] = {str(token): -100 for token in self.banned}
        return body


class _Progress:
    """What the chunks of one answer have said so far."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.end: float | None = None
        self.finish_reason = ""
        self.usage: dict[str, Any] | None = None
        self.text: list[str] = []
        self.last = -1.0
        self.arrivals = 0
        self.done = False

    def take(self, data: str, now: float) -> None:
        if data == "[DONE]":
            self.done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise BenchError(f"the server broke off: {_error_text(chunk)}")
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            text = delta.get("content") or ""
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            if text or thought:
                self.first = now if self.first is None else self.first
                self.arrivals += now - self.last > LUMP_S
                self.last = now
            self.text.append(text)
            if choice.get("finish_reason"):
                self.finish_reason = choice["finish_reason"]
                self.end = now


def _error_text(body: Any) -> str:
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


class ChatClient:
    """Measures answers of one server. Use as a context manager."""

    def __init__(self, url: str, *, model: str | None = None, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=httpx.Timeout(600.0, connect=5.0)
        )
        self._model = model

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def model_id(self) -> str:
        """The model's name in requests. Raises BenchError when the server does not say."""
        if self._model is None:
            try:
                reply = self._http.get("/v1/models").raise_for_status()
                self._model = str(reply.json()["data"][0]["id"])
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                raise BenchError(f"{self._http.base_url}: no model list: {error}") from error
        return self._model

    def chat(self, messages: Sequence[Message], options: ChatOptions) -> Sample:
        """Sends one request and measures it. Raises BenchError."""
        body = options.body(self.model_id(), messages)
        progress, reader = _Progress(), EventReader()
        start = time.perf_counter()
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise BenchError(f"HTTP {reply.status_code}: {_body_text(reply)}")
                for part in reply.iter_raw():
                    now = time.perf_counter() - start
                    for data in reader.feed(part):
                        progress.take(data, now)
        except (httpx.HTTPError, ValueError) as error:
            raise BenchError(f"{self._http.base_url}: {error!r}") from error
        return _sample(progress)


def _body_text(reply: httpx.Response) -> str:
    try:
        return _error_text(reply.json())
    except ValueError:
        return reply.text[:500]


def _sample(progress: _Progress) -> Sample:
    usage = progress.usage
    if not progress.done or progress.end is None:
        raise BenchError("the answer ended without a finish reason and [DONE]")
    if usage is None:
        raise BenchError("the server sent no usage")
    details = usage.get("prompt_tokens_details") or {}
    return Sample(
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
        reported_cached="cached_tokens" in details,
        completion_tokens=usage["completion_tokens"],
        # An answer without any text (the first token ended it) is complete when it ends.
        first_s=progress.end if progress.first is None else progress.first,
        end_s=progress.end,
        finish_reason=progress.finish_reason,
        text="".join(progress.text),
        arrivals=progress.arrivals,
    )
