"""A scripted engine behind the real application, on a real port."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from server.app import create_app
from server.engine import GenerationDefaults, GenerationRequest, Health, ModelInfo, Rendered
from server.engine.durations import Durations
from server.engine.errors import EngineError, InvalidRequest
from server.engine.events import (
    CacheReport,
    ContentDelta,
    Event,
    Finished,
    PrefillProgress,
    ReasoningDelta,
    Started,
    Timings,
    ToolCallDelta,
    Usage,
)
from server.middleware import MAX_HEAD_BYTES
from server.serve import http_of, listen
from server.settings import Settings

INFO = ModelInfo("served/name", 4096, 1_700_000_000, True, GenerationDefaults(0.7, 0.8, 20, 0.0))


CACHE = CacheReport(reused=7, prefilled=4, common=8, message=2, change="user message")


def finished(choice: int = 0, reason: Any = "stop", **usage: Any) -> Finished:
    counts = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "reasoning_tokens": 2,
        "cached_tokens": 7,
        "thinking_cut": False,
    }
    return Finished(choice, reason, Usage(**{**counts, **usage}), Timings(0, 0.1, 0.1, 0.2))


def answer() -> list[Any]:
    return [
        Started(11, 7, CACHE),
        PrefillProgress(11, 11),
        ReasoningDelta(0, "France, so "),
        ReasoningDelta(0, "Paris."),
        ContentDelta(0, "Par"),
        ContentDelta(0, "is. 🗼"),
        finished(),
    ]


def tool_answer() -> list[Any]:
    return [
        Started(11, 7, CACHE),
        ToolCallDelta(0, 0, "call_a", "get_weather", ""),
        ToolCallDelta(0, 0, None, None, '{"city": '),
        ToolCallDelta(0, 0, None, None, '"Oslo"}'),
        ToolCallDelta(0, 1, "call_b", "get_time", ""),
        ToolCallDelta(0, 1, None, None, "{}"),
        finished(reason="tool_calls"),
    ]


class ScriptedStream:
    """Plays a script: events, floats (seconds of silence) and exceptions (raised)."""

    def __init__(self, script: list[Any]) -> None:
        self._script = script
        self.cancelled = threading.Event()

    async def __aiter__(self) -> AsyncIterator[Event]:
        for item in self._script:
            if isinstance(item, (int, float)):
                await asyncio.sleep(item)
            elif isinstance(item, Exception):
                raise item
            else:
                yield item

    def cancel(self) -> None:
        self.cancelled.set()


CONTROLS = ("<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
FIRST_CONTROL = 256


@dataclass
class ScriptedEngine:
    """Plays `script` for every request it takes (or what it makes of the request; with `scripts`,
    each in its turn); `refusal` is raised instead when set. Its tokens are the bytes of UTF-8, and
    `controls` from 256 on."""

    script: list[Any] | Callable[[GenerationRequest], list[Any]] = field(default_factory=answer)
    scripts: list[list[Any]] = field(default_factory=list)
    controls: tuple[str, ...] = CONTROLS
    refusal: Exception | None = None
    status: Any = "ready"
    reason: str | None = None
    requests: list[GenerationRequest] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    work: dict[str, Durations] = field(default_factory=dict)

    @property
    def info(self) -> ModelInfo:
        return INFO

    def health(self) -> Health:
        return Health(
            status=self.status,
            active=3,
            queued=2,
            last_step_age_s=0.25,
            cache_bytes=1000,
            cache_entries=5,
            model=INFO,
            reason=self.reason,
            slots=16,
            memory={"active_bytes": 10, "peak_bytes": 20, "limit_bytes": 30},
            disk_cache_bytes=4000,
        )

    def durations(self) -> dict[str, Durations]:
        return self.work

    async def submit(self, request: GenerationRequest) -> ScriptedStream:
        self.loop = asyncio.get_running_loop()
        if self.refusal is not None:
            raise self.refusal
        request.check()
        script = self.script(request) if callable(self.script) else self.script
        if self.scripts:
            script = self.scripts[len(self.requests)]
        self.requests.append(request)
        self.streams.append(ScriptedStream(list(script)))
        return self.streams[-1]

    async def render(self, request: GenerationRequest) -> Rendered:
        request.check()
        turns = [f"<{m['role']}>{m['content']}" for m in request.messages]
        text = "".join(turns) + ("" if request.continue_final else "<answer>")
        if request.prompt is not None and not isinstance(request.prompt, str):
            return Rendered(await self.detokenize(request.prompt), list(request.prompt))
        text = text if request.prompt is None else request.prompt
        return Rendered(text, await self.tokenize(text))

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        tokens: list[int] = []
        while text:
            found = [c for c in self.controls if special and text.startswith(c)]
            taken = found[0] if found else text[0]
            control = [FIRST_CONTROL + self.controls.index(c) for c in found]
            tokens += control or list(taken.encode())
            text = text[len(taken) :]
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self._bytes, tokens)).decode("utf-8", "replace")

    async def token_texts(self, tokens: Sequence[int]) -> list[str]:
        return [self._bytes(token).decode("utf-8", "replace") for token in tokens]

    def _bytes(self, token: int) -> bytes:
        if not 0 <= token < FIRST_CONTROL + len(self.controls):
            raise InvalidRequest(f"tokens must be token ids; got {token}.", "tokens")
        control = token - FIRST_CONTROL
        return bytes([token]) if control < 0 else self.controls[control].encode()


@dataclass
class Served:
    """A running server: its address, its scripted engine, a client."""

    url: str
    port: int
    engine: ScriptedEngine
    http: httpx.Client

    def chat(self, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        return self.http.post("/v1/chat/completions", json=body)

    def request(self, **fields: Any) -> GenerationRequest:
        """The engine request that a chat with `fields` becomes."""
        response = self.chat(**fields)
        assert response.status_code == 200, response.text
        return self.engine.requests[-1]


@pytest.fixture(scope="session")
def launch() -> Iterator[Callable[..., Served]]:
    """Starts servers with given settings; stops them at the end."""
    running: list[tuple[uvicorn.Server, threading.Thread, Served]] = []

    def start(**settings: Any) -> Served:
        engine = ScriptedEngine()
        sockets = listen("127.0.0.1", 0)
        chosen = Settings(**{"response_store": "memory", **settings})
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(chosen, engine),
                http=http_of(chosen),
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ws="none",
                lifespan="off",
                log_level="critical",
            )
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": sockets}, daemon=True)
        thread.start()
        port = sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        served = Served(url, port, engine, httpx.Client(base_url=url, timeout=30))
        while not server.started:
            time.sleep(0.01)
        running.append((server, thread, served))
        return served

    yield start
    for server, _, served in running:
        served.http.close()
        server.should_exit = True
    for server, thread, _ in running:
        thread.join(5)
        server.force_exit = True


@pytest.fixture(scope="session")
def _shared(launch: Callable[..., Served]) -> Served:
    return launch(ping_interval=0.2, send_timeout=1, max_body_bytes=2_000_000, body_timeout=1)


@pytest.fixture
def served(_shared: Served) -> Served:
    """The shared server, its engine as new."""
    fresh = ScriptedEngine()
    for name in fresh.__dataclass_fields__:
        if name != "loop":
            setattr(_shared.engine, name, getattr(fresh, name))
    return _shared


@pytest.fixture(scope="session")
def scripts() -> SimpleNamespace:
    """Ready-made scripts and events for tests."""
    return SimpleNamespace(
        answer=answer, tool_answer=tool_answer, finished=finished, EngineError=EngineError
    )
