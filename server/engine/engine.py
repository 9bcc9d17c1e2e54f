"""The engine's asyncio face: submit a request, read its events, ask for its health.

Knows threads and asyncio, not HTTP and not the model: what runs a request is the worker thread
(`worker.py`), which this module only starts, hands requests to and listens to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from model.kernel_choice import KernelChoice
from model.mtp_policy import MtpDepth
from model.thinking import CLOSING_TEXT
from server.engine.answer_rules import compiled
from server.engine.cache_budget import open_cache
from server.engine.durations import Durations
from server.engine.errors import ContextOverflow, Draining, EngineDead, InvalidRequest
from server.engine.events import Event
from server.engine.idle_unload import ModelState
from server.engine.job import Job
from server.engine.mailbox import Mailbox
from server.engine.ports import Backend, Facts, Prompt, backend, generation_defaults
from server.engine.request import GenerationRequest
from server.engine.scheduler import Scheduler
from server.engine.worker import Limits, Worker

log = logging.getLogger(__name__)

_JOIN_S = 10.0
_DEAD_JOIN_S = 1.0
_WATCH_S = 0.25


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine runs.

    model: a checkpoint folder or hub id; None is the embedded demo.
    served_model_name: the id shown to clients; None is the model's own name.
    max_queue: requests that may wait for a turn beyond those running; more is QueueFull.
    max_batch: sequences decoded together.
    target_gap_s: longest time a running stream should wait between two tokens.
    prompt_cache_bytes: budget of the prompt cache; 0 turns it off, None lets it follow memory.
    request_timeout: seconds a request may take when it says nothing; None is no limit.
    closing_text: what ends a thought whose budget is spent.
    deterministic: one kernel shape for every batch, so that results are exactly the same.
    kernels: which fused kernels may prove themselves.
    mtp: file or folder with the MTP head, None for the checkpoint; mtp_depth: tokens it guesses.
    watchdog_s: longest time of one step before the engine is dead.
    disk_cache: folder of the cache's disk tier; None is off. disk_cache_bytes: its hard cap.
    idle_unload_s: seconds without a request after which the weights are freed; None is never.
    keep_warm_s: for so many seconds after the last piece of work an idle GPU is kept from slowing
        down; None is not at all.
    """

    model: Path | str | None = None
    served_model_name: str | None = None
    max_queue: int = 64
    max_batch: int = 16
    target_gap_s: float = 0.120
    prompt_cache_bytes: int | None = None
    request_timeout: float | None = None
    closing_text: str = CLOSING_TEXT
    deterministic: bool = False
    kernels: KernelChoice = "auto"
    mtp: Path | None = None
    mtp_depth: MtpDepth = "auto"
    watchdog_s: float = 60.0
    disk_cache: Path | None = None
    disk_cache_bytes: int = 20 << 30
    idle_unload_s: float | None = None
    keep_warm_s: float | None = None


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
    of work while it has any, None when it is idle. `slots`: requests that can be active at once;
    `memory`: active_bytes, peak_bytes and limit_bytes of the device, as far as known. `reason` is
    set when dead. `model_state`: whether the weights are there, or a request has to wait until they
    are; `uptime_s`: seconds since the engine was made. `mtp`: with an MTP head, how many steps of
    single answers had guesses ("steps"), how many there were ("drafted") and how many were right
    ("accepted")."""

    status: Literal["loading", "ready", "draining", "dead"]
    active: int
    queued: int
    last_step_age_s: float | None
    cache_bytes: int
    cache_entries: int
    model: ModelInfo | None
    reason: str | None = None
    slots: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    disk_cache_bytes: int = 0
    model_state: ModelState = "loaded"
    uptime_s: float = 0.0
    mtp: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A request's prompt: its text, control tokens spelled out, and its token ids."""

    text: str
    tokens: list[int]


class Stream:
    """The events of one request, as an async iterator that ends after the last Finished or after
    Failed, or at once after cancel(). One reader; to be read on the loop that submitted."""

    def __init__(self, job: Job, worker: Worker, arrived: asyncio.Event) -> None:
        self._job = job
        self._worker = worker
        self._arrived = arrived
        self._read: deque[Event] = deque()

    @property
    def id(self) -> str:
        """Unique in this process."""
        return self._job.id

    @property
    def prompt_tokens(self) -> int:
        return len(self._job.prompt.tokens)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._read:
            # In this order: what is put before the box closes is not missed.
            closed = self._job.mailbox.closed
            self._arrived.clear()
            if self._job.cancelled:
                raise StopAsyncIteration
            self._read.extend(self._job.mailbox.take())
            if self._read:
                break
            if closed:
                raise StopAsyncIteration
            await self._arrived.wait()
        return self._read.popleft()

    def cancel(self) -> None:
        """Stops the request within one step or prefill chunk; idempotent, never waits. A reader
        that went away must call it (a stream that is garbage collected does so itself)."""
        self._read.clear()
        self._worker.cancel(self._job)

    def __del__(self) -> None:
        if not self._job.mailbox.closed:
            self._worker.cancel(self._job)


class Engine:
    """One model, one worker thread. Every method is called on one event loop.

    progress(bytes_done, bytes_total) is called from the worker thread while weights load;
    `model_functions` is for tests, the default is the model at settings.model.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        progress: Callable[[int, int], None] | None = None,
        model_functions: Backend | None = None,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._began = time.monotonic()
        self._backend = model_functions or backend(
            settings.model, self.loading, settings.kernels, (settings.mtp, settings.mtp_depth)
        )
        self._worker: Worker | None = None
        self._facts: Facts | None = None
        self._info: ModelInfo | None = None
        self._draining = False
        self._numbers = itertools.count(1)
        self._watching: asyncio.Task[None] | None = None

    def loading(self, done: int, total: int) -> None:
        """Called from the worker thread while weights load: so many bytes are there."""
        if self._progress is not None:
            self._progress(done, total)
        if self._worker is not None:
            self._worker.loading(done, total)

    async def start(self) -> None:
        """Starts the worker, which loads and warms up the model; returns when it is ready.
        Raises what loading raised (CheckpointError, OSError, ...)."""
        if self._worker is not None:
            raise RuntimeError("the engine was started before")
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[Facts] = loop.create_future()

        def on_ready(facts: Facts | None, error: BaseException | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, so is whoever waited
                loop.call_soon_threadsafe(_settle, ready, facts, error)

        settings = self._settings
        self._worker = Worker(
            self._backend,
            Scheduler(
                max_batch=settings.max_batch,
                max_queue=settings.max_queue,
                target_gap_s=settings.target_gap_s,
                clock=time.monotonic,
            ),
            partial(open_cache, settings),
            limits=Limits(
                settings.watchdog_s,
                settings.deterministic,
                settings.idle_unload_s,
                settings.keep_warm_s,
            ),
            closing_text=settings.closing_text,
            clock=time.monotonic,
            time_of_day=time.time,
            on_ready=on_ready,
        )
        self._worker.start()
        self._watching = asyncio.create_task(_watch(self._worker))
        self._facts = await ready
        self._info = _describe(self._facts, settings.served_model_name)

    async def submit(self, request: GenerationRequest) -> Stream:
        """Tokenises, checks and queues `request`.

        Raises InvalidRequest, ContextOverflow, QueueFull, Draining or EngineDead. Once it
        returned, everything else that goes wrong is a Failed event.
        """
        worker, facts = self._ready()
        request.check()
        if request.prompt is not None and not isinstance(request.prompt, str):
            _check_tokens(request.prompt, facts.config.vocab_size, "prompt")
        if request.sampling.logit_bias:
            _check_bias(request.sampling.logit_bias, facts.config.vocab_size)
        if request.n > self._settings.max_batch:
            most = self._settings.max_batch
            raise InvalidRequest(f"n must be at most {most} (the size of a batch) here.", "n")
        worker.check_room(request.n)
        submitted_at = time.monotonic()
        prompt, constraint = await asyncio.gather(
            asyncio.to_thread(self._encode, facts, request, worker.turns),
            asyncio.to_thread(compiled, request, worker.grammars),
        )
        _check_length(len(prompt.tokens), request.max_tokens, facts.context_length)
        self._ready()
        arrived = asyncio.Event()
        timeout = self._settings.request_timeout if request.timeout is None else request.timeout
        job = Job(
            id=f"{next(self._numbers):x}-{secrets.token_hex(8)}",
            request=request,
            prompt=prompt,
            mailbox=Mailbox(_notifier(asyncio.get_running_loop(), arrived)),
            submitted_at=submitted_at,
            deadline=math.inf if timeout is None else submitted_at + timeout,
            constraint=constraint,
        )
        worker.add(job)
        return Stream(job, worker, arrived)

    async def render(self, request: GenerationRequest) -> Rendered:
        """The prompt that `request` would be. Raises InvalidRequest, Draining or EngineDead."""
        worker, facts = self._ready()
        request.check()

        def render() -> Rendered:
            tokens = self._encode(facts, request, worker.turns).tokens
            return Rendered(facts.tokenizer.spelled(tokens), tokens)

        return await asyncio.to_thread(render)

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        """The token ids of `text`; with `special`, control tokens spelled in it become themselves.
        Raises Draining or EngineDead."""
        _, facts = self._ready()
        encode = partial(facts.tokenizer.encode, allow_special=special)
        return await asyncio.to_thread(encode, text)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, control tokens spelled out. Raises InvalidRequest for an id that
        does not exist, Draining or EngineDead."""
        _, facts = self._ready()
        _check_tokens(tokens, facts.config.vocab_size, "tokens")
        return await asyncio.to_thread(facts.tokenizer.spelled, tokens)

    async def token_texts(self, tokens: Sequence[int]) -> list[str]:
        """The text of each of `tokens` alone, as detokenize()."""
        _, facts = self._ready()
        _check_tokens(tokens, facts.config.vocab_size, "tokens")
        return await asyncio.to_thread(
            lambda: [facts.tokenizer.spelled([token]) for token in tokens]
        )

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Raises Draining before start() returned."""
        if self._info is None:
            raise Draining("The model is still loading.")
        return self._info

    def health(self) -> Health:
        """Never blocks."""
        worker = self._worker
        if worker is None:
            return Health("loading", 0, 0, None, 0, 0, None, model_state="loading")
        status: Literal["loading", "ready", "draining", "dead"] = "ready"
        if worker.dead is not None and not (self._draining and worker.ended):
            status = "dead"
        elif self._draining:
            status = "draining"
        elif self._info is None:
            status = "loading"
        figures = worker.figures
        return Health(
            status=status,
            active=worker.slots_used,
            queued=worker.queued,
            last_step_age_s=worker.progress_age,
            cache_bytes=figures.cache_bytes,
            cache_entries=figures.cache_entries,
            model=self._info,
            reason=worker.dead if status == "dead" else None,
            slots=self._settings.max_batch,
            memory=figures.memory,
            disk_cache_bytes=figures.disk_bytes,
            mtp=figures.guesses,
            model_state=worker.model_state,
            uptime_s=round(time.monotonic() - self._began, 1),
        )

    def durations(self) -> Mapping[str, Durations]:
        """How long pieces of the worker's work took so far, by kind. Never blocks."""
        return {} if self._worker is None else self._worker.durations

    async def stop(self, drain_s: float) -> None:
        """Refuses new requests, lets those in flight finish for up to `drain_s` seconds, ends the
        rest with Failed(Draining), and joins the worker. Idempotent."""
        self._draining = True
        worker = self._worker
        if worker is None:
            return
        await asyncio.to_thread(worker.wait_idle, drain_s)
        if not await asyncio.to_thread(worker.stop, _DEAD_JOIN_S if worker.dead else _JOIN_S):
            log.error("the worker did not end in time")
        if self._watching is not None:
            self._watching.cancel()

    def _ready(self) -> tuple[Worker, Facts]:
        worker, facts = self._worker, self._facts
        if self._draining:
            raise Draining
        if worker is not None and worker.dead is not None:
            raise EngineDead(worker.dead)
        if worker is None or facts is None:
            raise Draining("The model is still loading.")
        return worker, facts

    def _encode(self, facts: Facts, request: GenerationRequest, turns: Any) -> Prompt:
        try:
            return self._backend.encode(facts, request, turns)
        except ValueError as error:
            param = getattr(error, "param", "messages")  # InvalidPrompt knows the field
            raise InvalidRequest(f"The messages cannot be rendered: {error}", param) from error


async def _watch(worker: Worker) -> None:
    """Looks after the worker as long as the engine runs."""
    while True:
        await asyncio.sleep(_WATCH_S)
        worker.watch()


def _check_length(prompt_tokens: int, requested: int | None, limit: int) -> None:
    if prompt_tokens >= limit or prompt_tokens + (requested or 0) > limit:
        raise ContextOverflow(limit, prompt_tokens, requested)


def _check_tokens(tokens: Sequence[int], vocab_size: int, param: str) -> None:
    for token in tokens:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"{param} must be token ids from 0 to {vocab_size - 1}; got {token}.", param
            )


def _check_bias(bias: Mapping[int, float], vocab_size: int) -> None:
    for token in bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias keys must be token ids from 0 to {vocab_size - 1}; got {token}.",
                "logit_bias",
            )


def _notifier(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> Callable[[], None]:
    def notify() -> None:
        with contextlib.suppress(RuntimeError):  # a closed loop has no reader left
            loop.call_soon_threadsafe(arrived.set)

    return notify


def _settle(ready: asyncio.Future[Facts], facts: Facts | None, error: BaseException | None) -> None:
    if ready.done():
        return
    if facts is not None:
        ready.set_result(facts)
    else:
        # A future cannot carry StopIteration, nor should SystemExit end the loop.
        fit = isinstance(error, Exception) and not isinstance(error, StopIteration)
        ready.set_exception(error if fit and error else EngineDead(f"loading ended: {error!r}"))


def _describe(facts: Facts, served_name: str | None) -> ModelInfo:
    return ModelInfo(
        id=served_name or facts.name,
        context_length=facts.context_length,
        created=int(time.time()),
        is_demo=facts.is_demo,
        defaults=GenerationDefaults(**generation_defaults(facts.config)),
    )
