"""Where `mxserve chat` gets its answers: a running server, or an engine in this process.

Knows the wire of chat completions and the engine's events, and makes one small stream of both.
Nothing of terminals, of the person or of what is kept of a conversation.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from server.sse_reader import EventReader

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.request import GenerationRequest, Thinking

LOADING_LIMIT_S = 300.0
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class ChatError(RuntimeError):
    """An answer could not be had; the message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of an answer; `thought` when it is reasoning."""

    text: str
    thought: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The answer is complete. `reason` is the wire's finish_reason."""

    reason: str
    completion_tokens: int
    cached_tokens: int
    prompt_tokens: int


class Source(Protocol):
    """Where answers come from."""

    async def open(self) -> str:
        """Makes ready; returns the model's name. Raises ChatError."""
        ...

    def answer(
        self, messages: Sequence[dict[str, Any]], effort: str | None
    ) -> AsyncGenerator[Piece | End, None]:
        """Streams one answer. Raises ChatError; closing the iterator stops the work."""
        ...

    async def close(self) -> None:
        """Lets go of connections and threads."""
        ...


class ServerSource:
    """Answers of a server that speaks chat completions."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Without a read limit: a long prompt may take minutes before its first token.
        timeout = httpx.Timeout(None, connect=5.0)
        self._http = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=timeout)
        self._model = ""

    async def open(self) -> str:
        try:
            reply = await self._http.get("/v1/models", timeout=10.0)
            deadline = asyncio.get_running_loop().time() + LOADING_LIMIT_S
            while reply.status_code == 503 and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.5)  # the model is still loading
                reply = await self._http.get("/v1/models", timeout=10.0)
        except httpx.HTTPError as error:
            raise ChatError(
                f"No server answers at {self._url} ({type(error).__name__}). "
                "Start one with `mxserve serve`, or give --model to chat without a server."
            ) from error
        if reply.status_code != 200:
            raise ChatError(_refusal(reply))
        try:
            self._model = str(reply.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise ChatError(f"{self._url} is no OpenAI-compatible server.") from error
        return self._model

    async def answer(
        self, messages: Sequence[dict[str, Any]], effort: str | None
    ) -> AsyncGenerator[Piece | End, None]:
        body: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if effort is not None:
            body["reasoning_effort"] = effort
        reason, usage, done = "", {}, False
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as reply:
                if reply.status_code != 200:
                    await reply.aread()
                    raise ChatError(_refusal(reply))
                async for chunk in _chunks(reply):
                    if chunk is None:
                        done = True
                        break
                    usage = chunk.get("usage") or usage
                    for choice in chunk.get("choices") or []:
                        reason = choice.get("finish_reason") or reason
                        for piece in _pieces(choice.get("delta") or {}):
                            yield piece
        except httpx.HTTPError as error:
            raise ChatError(f"The connection broke: {error or type(error).__name__}") from error
        if not done:
            raise ChatError("The connection was closed before the answer was complete.")
        details = usage.get("prompt_tokens_details") or {}
        yield End(
            reason,
            usage.get("completion_tokens") or 0,
            details.get("cached_tokens") or 0,
            usage.get("prompt_tokens") or 0,
        )

    async def close(self) -> None:
        await self._http.aclose()


async def _chunks(reply: httpx.Response) -> AsyncIterator[dict[str, Any] | None]:
    """The stream's JSON chunks, None for [DONE]. Raises ChatError for an error frame."""
    reader = EventReader()
    async for part in reply.aiter_raw():
        for data in reader.feed(part):
            if data == "[DONE]":
                yield None
                return
            try:
                chunk = json.loads(data)
            except ValueError as error:
                raise ChatError(f"The server sent what is not JSON: {data[:80]!r}") from error
            if chunk.get("error"):
                raise ChatError(_error_text(chunk))
            yield chunk


def _pieces(delta: dict[str, Any]) -> list[Piece]:
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    text = delta.get("content") or ""
    return [Piece(thought, thought=True)] * bool(thought) + [Piece(text)] * bool(text)


def _refusal(reply: httpx.Response) -> str:
    try:
        body = reply.json()
    except ValueError:
        body = {}
    known = isinstance(body, dict) and "error" in body
    text = _error_text(body) if known else f"HTTP {reply.status_code}"
    hint = " (set MXSERVE_API_KEY)" if reply.status_code == 401 else ""
    return text + hint


def _error_text(body: dict[str, Any]) -> str:
    error = body["error"]
    return str(error.get("message") or error) if isinstance(error, dict) else str(error)


class EngineSource:
    """Answers of a model that runs in this process, without a server."""

    def __init__(self, model: str | None) -> None:
        self._model = model
        self._engine: Engine | None = None

    async def open(self) -> str:
        from server.engine.engine import Engine, EngineSettings

        engine = Engine(EngineSettings(model=self._model))
        try:
            await engine.start()
        except (ValueError, OSError, RuntimeError) as error:
            await engine.stop(0)
            raise ChatError(f"The model could not be loaded: {error}") from error
        self._engine = engine
        return engine.info.id

    async def answer(
        self, messages: Sequence[dict[str, Any]], effort: str | None
    ) -> AsyncGenerator[Piece | End, None]:
        from server.engine import events
        from server.engine.errors import EngineError

        assert self._engine is not None, "open() comes first"  # noqa: S101
        try:
            stream = await self._engine.submit(self._request(messages, effort))
        except EngineError as error:
            raise ChatError(str(error)) from error
        try:
            async for event in stream:
                match event:
                    case events.ReasoningDelta(text=text):
                        yield Piece(text, thought=True)
                    case events.ContentDelta(text=text):
                        yield Piece(text)
                    case events.Finished(reason=reason, usage=usage):
                        yield End(
                            reason,
                            usage.completion_tokens,
                            usage.cached_tokens,
                            usage.prompt_tokens,
                        )
                    case events.Failed(error=error):
                        raise ChatError(str(error))
                    case _:
                        pass
        finally:
            stream.cancel()

    def _request(self, messages: Sequence[dict[str, Any]], effort: str | None) -> GenerationRequest:
        from model.sampling import SamplingParams
        from server.engine.request import GenerationRequest

        assert self._engine is not None, "open() comes first"  # noqa: S101
        defaults = self._engine.info.defaults
        sampling = SamplingParams(
            temperature=defaults.temperature,
            top_p=defaults.top_p,
            top_k=defaults.top_k,
            min_p=defaults.min_p,
        )
        return GenerationRequest(
            messages=list(messages), sampling=sampling, thinking=_thinking(effort)
        )

    async def close(self) -> None:
        if self._engine is not None:
            await self._engine.stop(0)


def _thinking(effort: str | None) -> Thinking:
    """The engine's form of an effort, with the settings' budgets. Raises ChatError."""
    from server.engine.request import Thinking
    from server.settings import SettingsError, load_settings

    if effort is None:
        return Thinking()
    if effort == "none":
        return Thinking(enabled=False)
    try:
        budgets = load_settings().effort_budgets
    except SettingsError as error:
        raise ChatError(str(error)) from error
    return Thinking(enabled=True, budget=budgets[effort])
