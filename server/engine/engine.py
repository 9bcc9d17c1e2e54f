"""The engine's asyncio face: submit a request, read its events, ask for its health.

Knows threads and asyncio, not HTTP and not the model: what runs a request is the worker thread
(`worker.py`), which this module only starts, hands requests to and listens to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from server.engine.events import Event
from server.engine.request import GenerationRequest

CLOSING_TEXT = "\n\nI have thought long enough, so I will answer now.\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine runs.

    model: a checkpoint folder or hub id; None is the embedded demo.
    served_model_name: the id shown to clients; None is the model's own name.
    max_queue: requests that may wait for a turn beyond those running; more is QueueFull.
    max_active: requests that share the worker in turns.
    target_gap_s: longest time a running stream should wait between two tokens.
    prompt_cache_bytes: budget of the prompt cache; 0 turns it off.
    request_timeout: seconds a request may take when it says nothing; None is no limit.
    closing_text: what ends a thought whose budget is spent.
    """

    model: Path | str | None = None
    served_model_name: str | None = None
    max_queue: int = 64
    max_active: int = 8
    target_gap_s: float = 0.120
    prompt_cache_bytes: int = 1 << 30
    request_timeout: float | None = None
    closing_text: str = CLOSING_TEXT


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """The checkpoint's own sampling defaults, for fields a request leaves out."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What clients may know of the model. `created` is in Unix seconds."""

    id: str
    context_length: int
    created: int
    is_demo: bool
    defaults: GenerationDefaults


@dataclass(frozen=True, slots=True)
class Health:
    """One look at the engine. `last_step_age_s`: seconds since the worker last finished a piece
    of work while it has any, None when it is idle. `reason` is set when dead."""

    status: Literal["loading", "ready", "draining", "dead"]
    active: int
    queued: int
    last_step_age_s: float | None
    cache_bytes: int
    cache_entries: int
    model: ModelInfo | None
    reason: str | None = None


class Stream:
    """The events of one request, as an async iterator that ends after the last Finished or after
    Failed, or at once after cancel(). One reader; to be read on the loop that submitted."""

    id: str
    prompt_tokens: int

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def __anext__(self) -> Event: ...

    def cancel(self) -> None:
        """Stops the request within one step or prefill chunk; idempotent, never waits. A reader
        that went away must call it (a stream that is garbage collected does so itself)."""
        ...


class Engine:
    """One model, one worker thread. Every method is called on one event loop."""

    def __init__(self, settings: EngineSettings) -> None: ...

    async def start(self) -> None:
        """Starts the worker, which loads and warms up the model; returns when it is ready.
        Raises what loading raised (CheckpointError, OSError, ...)."""
        ...

    async def submit(self, request: GenerationRequest) -> Stream:
        """Tokenises, checks and queues `request`.

        Raises InvalidRequest, ContextOverflow, QueueFull, Draining or EngineDead. Once it
        returned, everything else that goes wrong is a Failed event.
        """
        ...

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Raises Draining before start() returned."""
        ...

    def health(self) -> Health:
        """Never blocks."""
        ...

    async def stop(self, drain_s: float) -> None:
        """Refuses new requests, lets those in flight finish for up to `drain_s` seconds, ends the
        rest with Failed(Draining), and joins the worker. Idempotent."""
        ...
