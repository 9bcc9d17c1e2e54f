"""Many chat completions at once, streamed, with the time at which each piece of text came.

Knows the OpenAI wire, asyncio and a clock. Nothing of what is asked, of how servers are started or
of statistics. A failure is part of the record: one broken stream must not end a measurement.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from server.sse_reader import EventReader

Body = Mapping[str, Any]
LONGEST_S = 600.0
CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Stream:
    """One streamed answer; times in seconds on `time.perf_counter`.

    arrivals: when each piece of text came, thoughts included. completion_tokens: the server's
    usage, None for one that was cut. cut: we hung up. error: why it failed, None where it did not.
    id: the response's, where it is told at the beginning.
    """

    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    text: str = ""
    completion_tokens: int | None = None
    finish_reason: str = ""
    cut: bool = False
    status: int = 0
    error: str | None = None
    id: str = ""

    @property
    def first_s(self) -> float | None:
        """Seconds from sending to the first piece of text."""
        return self.arrivals[0] - self.sent if self.arrivals else None

    def tokens_between(self, start: float, end: float) -> float:
        """Tokens that came in that time: each piece counts as many as the answer's mean piece."""
        pieces = sum(start <= at < end for at in self.arrivals)
        if not pieces or self.completion_tokens is None:
            return float(pieces)
        return pieces * self.completion_tokens / len(self.arrivals)

    def gaps_between(self, start: float, end: float) -> list[float]:
        """Seconds between neighbouring pieces that both came in that time."""
        pairs = itertools.pairwise(self.arrivals)
        return [after - before for before, after in pairs if start <= before and after < end]


# Takes the data of an event in; True for the one that closes the stream.
Read = Callable[[Stream, str, float], bool]


class StreamClient:
    """Streams answers of one server. Use as an async context manager."""

    def __init__(self, url: str, *, model: str | None = None, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(LONGEST_S, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None),
        )
        self._model = model

    async def __aenter__(self) -> StreamClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def health(self) -> dict[str, Any]:
        """The server's own account of itself; empty when it gives none."""
        try:
            body = (await self._http.get("/health", timeout=10.0)).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    async def post(self, path: str, body: Body | None = None) -> int:
        """Sends a request that is no stream; its status, 0 where there is no answer."""
        try:
            return (await self._http.post(path, json=body, timeout=30.0)).status_code
        except httpx.HTTPError:
            return 0

    async def context_length(self) -> int | None:
        """The model's, where the server tells it."""
        try:
            card = (await self._http.get("/v1/models", timeout=10.0)).json()["data"][0]
            return int(card["context_length"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None

    async def ask(
        self,
        body: Body,
        *,
        hang_up: Callable[[Stream], bool] = lambda _: False,
        started: asyncio.Event | None = None,
        limit_s: float = LONGEST_S,
        into: Stream | None = None,
        path: str = CHAT,
        read: Read | None = None,
    ) -> Stream:
        """One request. `hang_up` is asked after each piece of text; `started` is set at the first;
        `into`: a record to fill, so that others can look at it meanwhile; `path` and `read`: of
        another dialect than chat completions. Never raises for what the server does."""
        stream = Stream() if into is None else into
        whole = {**body, "stream": True, "stream_options": {"include_usage": True}}
        if self._model is not None:
            whole["model"] = self._model
        stream.sent = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                await self._read(whole, stream, hang_up, started, path, read or read_chat)
        except TimeoutError:
            stream.error = f"no end within {limit_s:.0f} s"
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            stream.error = f"{type(error).__name__}: {error}"
        if started is not None:
            started.set()  # who waits for it must not wait for a stream that failed
        return stream

    async def _read(
        self,
        body: Body,
        stream: Stream,
        hang_up: Callable[[Stream], bool],
        started: asyncio.Event | None,
        path: str,
        read: Read,
    ) -> None:
        reader, done = EventReader(), False
        async with self._http.stream("POST", path, json=body) as reply:
            stream.status = reply.status_code
            if reply.status_code != 200:
                await reply.aread()
                stream.error = f"HTTP {reply.status_code}: {reply.text[:300]}"
                return
            async for part in reply.aiter_raw():
                now = time.perf_counter()
                for data in reader.feed(part):
                    done = read(stream, data, now) or done
                if started is not None and stream.arrivals:
                    started.set()
                if not done and hang_up(stream):
                    stream.cut = True
                    return
        if stream.error is None and not (done and stream.finish_reason):
            stream.error = "it ended without a finish reason and [DONE]"


def read_chat(stream: Stream, data: str, now: float) -> bool:
    """Adds one event of a chat completion to the record."""

    def text_of(choice: Mapping[str, Any]) -> str:
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        return thought + (delta.get("content") or "")

    return read_choices(stream, data, now, text_of)


def read_choices(
    stream: Stream, data: str, now: float, text_of: Callable[[Mapping[str, Any]], str]
) -> bool:
    """Adds one event of an OpenAI completion, whose choices have a text each, to the record."""
    if data == "[DONE]":
        return True
    chunk = json.loads(data)
    if "error" in chunk:
        stream.error = f"the server broke off: {json.dumps(chunk['error'])[:300]}"
    usage = chunk.get("usage") or {}
    stream.completion_tokens = usage.get("completion_tokens", stream.completion_tokens)
    for choice in chunk.get("choices") or []:
        add_piece(stream, text_of(choice), now)
        stream.finish_reason = choice.get("finish_reason") or stream.finish_reason
    return False


def add_piece(stream: Stream, text: str, now: float) -> None:
    """Adds a piece of text, if it is one."""
    if text:
        stream.arrivals.append(now)
        stream.text += text


async def together(tasks: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs all; when one raises or this is cancelled, all others are cancelled and waited for."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(task)
