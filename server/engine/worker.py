"""The one thread that owns the model: loads it, works off requests, outlives their failures.

What it shares with other threads is behind one lock: the scheduler and the jobs. Nothing a
request does ends the thread; if something else does, every waiting stream is told.
"""

from __future__ import annotations

import gc
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from server.engine.errors import (
    Draining,
    EngineDead,
    EngineError,
    OutOfMemory,
    QueueFull,
    RequestTimeout,
    StepFailed,
)
from server.engine.job import Job
from server.engine.ports import Backend, Facts
from server.engine.prompt_cache import PromptCache
from server.engine.running import Running, Workshop
from server.engine.scheduler import Admit, Prefill, Scheduler, Step, Turn

log = logging.getLogger(__name__)

_MEMORY_WORDS = ("out of memory", "bad_alloc", "failed to allocate", "unable to allocate")


class Worker:
    """Runs jobs on a thread of its own.

    on_ready(facts, error) is called once in that thread: with facts of the loaded model, or with
    what loading raised, after which the thread ends.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler[Job],
        cache: PromptCache,
        *,
        closing_text: str,
        clock: Callable[[], float],
        on_ready: Callable[[Facts | None, BaseException | None], None],
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._cache = cache
        self._closing_text = closing_text
        self._clock = clock
        self._on_ready = on_ready
        self._change = threading.Condition()
        self._jobs: set[Job] = set()
        self._running: dict[Job, Running] = {}
        self._stopping = False
        self._look = False  # a job was cancelled: look for it
        self._dead: str | None = None
        self._progress_at = clock()
        self._cache_figures = (0, 0)
        self.turns: Any = None  # the TurnMemory, once loaded
        self._thread = threading.Thread(target=self._main, name="mxserve-worker", daemon=True)

    # From any thread.

    def start(self) -> None:
        self._thread.start()

    @property
    def dead(self) -> str | None:
        """Why the worker can't go on, None while it can."""
        if self._dead is None and self._thread.ident and not self._thread.is_alive():
            return "the worker thread ended"
        return self._dead

    @property
    def active(self) -> int:
        return self._scheduler.active

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    @property
    def cache_figures(self) -> tuple[int, int]:
        """Bytes and entries of the prompt cache."""
        return self._cache_figures

    @property
    def progress_age(self) -> float | None:
        """Seconds since the last piece of work ended; None when there is none to do."""
        return self._clock() - self._progress_at if self._jobs else None

    def check_room(self) -> None:
        """Raises QueueFull when add() would."""
        with self._change:
            self._check_room()

    def add(self, job: Job) -> None:
        """Queues a job. Raises QueueFull, EngineDead or Draining."""
        with self._change:
            if self._dead is not None:
                raise EngineDead(self._dead)
            if self._stopping:
                raise Draining
            self._check_room()
            if not self._jobs:
                self._progress_at = self._clock()
            self._scheduler.add(job)
            self._jobs.add(job)
            self._change.notify()

    def cancel(self, job: Job) -> None:
        """Ends a job's stream now and its work within one step or chunk."""
        job.cancelled = True
        job.mailbox.close()
        with self._change:
            self._look = True
            self._change.notify()

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no request is unfinished; whether that came in time."""
        with self._change:
            return self._change.wait_for(lambda: not self._jobs, timeout)

    def stop(self, timeout: float) -> bool:
        """Ends every job with Draining and the thread with them; whether it ended in time."""
        with self._change:
            self._stopping = True
            self._change.notify()
        if self._thread.ident:
            self._thread.join(timeout)
        self._fail_all(Draining())
        return not self._thread.is_alive()

    # In the worker thread.

    def _main(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            log.exception("the worker thread died")
            self._dead = f"{type(error).__name__}: {error}"
            self._fail_all(EngineDead(self._dead))
            traceback.clear_frames(error.__traceback__)
        finally:
            # Arrays and compiled steps must be freed in the thread that made them: MLX aborts the
            # process at exit otherwise.
            for job in list(self._running):
                self._drop(job)
            self._cache.clear()
            gc.collect()

    def _serve(self) -> None:
        shop = self._load()
        if shop is not None:
            self._work(shop)

    def _load(self) -> Workshop | None:
        try:
            model = self._backend.load()
            model.warm_up()
            closing = model.tokenizer.encode(self._closing_text, allow_special=True)
            turns = self._backend.turns()
        except BaseException as error:
            self._dead = f"loading failed: {error}"
            # The error leaves this thread; arrays in the frames it went through must not.
            traceback.clear_frames(error.__traceback__)
            self._on_ready(None, error)
            return None
        self.turns = turns
        self._on_ready(Facts.of(model), None)
        return Workshop(model, self._backend, self._cache, turns, tuple(closing), self._clock)

    def _work(self, shop: Workshop) -> None:
        while True:
            with self._change:
                turn = self._next_turn()
                while turn is None and not self._stopping:
                    self._change.wait()
                    turn = self._next_turn()
                if self._stopping:
                    break
            if turn is not None:
                self._take(turn, shop)
        self._fail_all(Draining())

    def _next_turn(self) -> Turn[Job] | None:
        self._drop_ended()
        return self._scheduler.next()

    def _take(self, turn: Turn[Job], shop: Workshop) -> None:
        """Does one piece of work; a failure ends that request only."""
        job = turn.key
        fed = 1
        try:
            fed = self._do(turn, shop)
        except Exception as error:
            self._fail(job, error)
        with self._change:
            self._scheduler.done(fed)
        self._progress_at = self._clock()
        self._cache_figures = (self._cache.nbytes, self._cache.entries)

    def _do(self, turn: Turn[Job], shop: Workshop) -> int:
        job, fed = turn.key, 1
        if isinstance(turn, Admit):
            running = self._running[job] = Running(job, shop)
            running.begin()
            with self._change:
                if running.prefilled:
                    self._scheduler.decoding(job)
                else:
                    self._scheduler.prefilling(job)
            return fed
        running = self._running[job]
        if isinstance(turn, Prefill):
            fed = running.prefill(turn.tokens)
            if running.prefilled:
                with self._change:
                    self._scheduler.decoding(job)
        elif isinstance(turn, Step):
            running.step()
            if running.finished:
                self._drop(job)
        return fed

    def _fail(self, job: Job, error: Exception) -> None:
        if isinstance(error, EngineError):
            failure = error
        elif isinstance(error, MemoryError) or _is_memory(error):
            log.warning("out of memory: the prompt cache is emptied: %s", error)
            self._cache.clear()
            failure = OutOfMemory()
        else:
            log.error("request %s failed in a step", job.id, exc_info=error)
            failure = StepFailed(f"The engine failed on this request: {type(error).__name__}.")
        job.mailbox.close(failure)
        self._drop(job)

    def _drop(self, job: Job) -> None:
        """Forgets a job and frees its state."""
        with self._change:
            self._forget(job)
        running = self._running.pop(job, None)
        if running is not None:
            try:
                running.close()
            except Exception:
                log.exception("request %s: freeing its state failed", job.id)

    def _drop_ended(self) -> None:
        """Drops jobs that were cancelled or whose time is up. Holds the lock."""
        now = self._clock()
        late = [job for job in self._jobs if job.deadline <= now]
        for job in late:
            job.mailbox.close(RequestTimeout(now - job.submitted_at))
        if self._look:
            self._look = False
            late += [job for job in self._jobs if job.cancelled and job not in late]
        for job in late:
            self._drop(job)

    def _forget(self, job: Job) -> None:
        self._scheduler.remove(job)
        self._jobs.discard(job)
        self._change.notify_all()

    def _check_room(self) -> None:
        if self._scheduler.full:
            raise QueueFull(self._scheduler.retry_after())

    def _fail_all(self, error: EngineError) -> None:
        with self._change:
            jobs = list(self._jobs)
            for job in jobs:
                self._forget(job)
        for job in jobs:
            job.mailbox.close(error)


def _is_memory(error: Exception) -> bool:
    """Whether an error of MLX, which has no type of its own for it, says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)
