"""The one thread that owns the model: loads it, works off requests, outlives their failures.

What it shares with other threads is behind one lock: the scheduler and the jobs. Nothing a
request does ends the thread. A failing step costs the requests in it; a second one soon after, a
failed self-test or a step that does not come back makes the worker dead, and everybody is told.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from server.engine.chunk_size import FIRST_CHUNK
from server.engine.durations import Durations
from server.engine.errors import (
    Draining,
    EngineDead,
    EngineError,
    LoadFailed,
    OutOfMemory,
    QueueFull,
    RequestTimeout,
    StepFailed,
)
from server.engine.idle_unload import IdleUnload, ModelState
from server.engine.idle_work import IdleWork
from server.engine.job import Job
from server.engine.keep_warm import KeepWarm
from server.engine.memory_room import is_memory_error, make_room
from server.engine.ports import Backend, Facts, Grammars
from server.engine.prompt_cache import PromptCache
from server.engine.running import NOT_FINITE, Running, Workshop
from server.engine.scheduler import Admit, Prefill, Scheduler, Turn
from server.engine.turn_journal import JOURNAL, TurnJournal

log = logging.getLogger(__name__)

# Two failed steps within this time: the device, not a request, is at fault.
FAILURES_APART_S = 60.0
CLOSE_CACHE_S = 5.0
# The time of day went on by so much more than the monotonic clock: the machine slept meanwhile.
SLEPT_S = 10.0
# A server that is never idle saves a few megabytes of its cache this often.
SAVE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the worker. watchdog_s: longest time one piece of work may take. deterministic,
    idle_unload_s and keep_warm_s: see EngineSettings."""

    watchdog_s: float
    deterministic: bool = False
    idle_unload_s: float | None = None
    keep_warm_s: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """Bytes and entries of the prompt cache, memory of the device, bytes of the disk tier; guesses
    of the MTP head: row-steps with some, how many were drafted, how many accepted."""

    cache_bytes: int = 0
    cache_entries: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    disk_bytes: int = 0
    guesses: Mapping[str, int] = field(default_factory=dict)


class Worker:
    """Runs jobs on a thread of its own.

    open_cache(model) makes the prompt cache once the model is there. Limits of time go by `clock`,
    which is monotonic; both clocks are in seconds. on_ready(facts, error) is called once in that
    thread: with facts of the loaded model, or with what loading raised, after which the thread
    ends.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler[Job],
        open_cache: Callable[[Any], PromptCache],
        *,
        limits: Limits,
        closing_text: str,
        clock: Callable[[], float],
        time_of_day: Callable[[], float],
        on_ready: Callable[[Facts | None, BaseException | None], None],
    ) -> None:
        self._backend = backend
        self._scheduler = scheduler
        self._open_cache = open_cache
        self._limits = limits
        self._closing_text = closing_text
        self._clock = clock
        self._time_of_day = time_of_day
        self._offset = time_of_day() - clock()
        self._on_ready = on_ready
        self._change = threading.Condition()
        self._jobs: set[Job] = set()
        self._running: dict[Job, Running] = {}
        self._owners: dict[Any, Running] = {}  # by the generation that decodes
        self._chunk_limits: dict[Job, int] = {}  # of prompts that ran out of memory once
        self._recovered: set[Job] = set()  # lost their rows once, to a lack of memory
        self._stopping = False
        self._look = False  # a job was cancelled: look for it
        self._dead: str | None = None
        self._progress_at = clock()
        self._working = False
        self._failed_at: float | None = None
        self._saved_at = self._progress_at
        self._accounts_broken = 0
        self._figures = Figures()
        self._durations = {kind: Durations() for kind in ("decode", "prefill", "admit")}
        self._cache: PromptCache | None = None  # for its figures
        self._unload = IdleUnload(limits.idle_unload_s, clock)
        self._fingerprint: str | None = None  # of the model that tokenizer and template are of
        # Once loaded, the TurnMemory and what compiles grammars.
        self.turns: Any = None
        self.grammars: Grammars | None = None
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
    def ended(self) -> bool:
        """Whether the thread has ended because it was told to."""
        return self._stopping and self._dead is None and not self._thread.is_alive()

    @property
    def accounts_broken(self) -> int:
        """How many checks of slots and bytes have failed."""
        return self._accounts_broken

    @property
    def slots_used(self) -> int:
        """Rows of the batch that belong to admitted requests."""
        return self._scheduler.slots_used

    @property
    def queued(self) -> int:
        return self._scheduler.queued

    @property
    def figures(self) -> Figures:
        """As of the last piece of work; the disk's as of now, for its writer ends later."""
        cache, figures = self._cache, self._figures
        return figures if cache is None else replace(figures, disk_bytes=cache.disk_bytes)

    @property
    def model_state(self) -> ModelState:
        """Whether the weights are there; while they are not, requests wait for them."""
        return self._unload.state

    @property
    def durations(self) -> Mapping[str, Durations]:
        """How long pieces of work took so far, by kind."""
        return self._durations

    @property
    def progress_age(self) -> float | None:
        """Seconds since the last piece of work ended; None when there is none to do."""
        return self._clock() - self._progress_at if self._jobs else None

    def watch(self) -> None:
        """Looks after the worker, from another thread, now and then: one whose piece of work does
        not come back, or whose thread has ended, is dead, and everybody is told."""
        age = self._clock() - self._progress_at
        if self._working and age > self._limits.watchdog_s and self._dead is None:
            log.critical("a step has not come back for %.0f s:\n%s", age, self._stack())
            self._dead = f"a step did not return within {self._limits.watchdog_s:g} s"
        if self._unload.state != "loaded":  # the worker may be loading: it looks at nobody's time
            with self._change:
                self._drop_ended()
        if self.dead is not None and self._jobs:
            self._fail_all(EngineDead(self.dead))

    def loading(self, done: int, total: int) -> None:
        """Tells those who wait for the weights how many bytes are there; from any thread."""
        event = self._unload.progress(done, total)
        if event is not None:
            with self._change:
                for job in self._jobs:
                    job.mailbox.put(event)

    def check_room(self, slots: int) -> None:
        """Raises QueueFull when add() would for a request of `slots` choices."""
        with self._change:
            if self._scheduler.full(slots):
                raise QueueFull(self._scheduler.retry_after())

    def add(self, job: Job) -> None:
        """Queues a job. Raises QueueFull, EngineDead or Draining."""
        with self._change:
            if self.dead is not None:
                raise EngineDead(self.dead)
            if self._stopping:
                raise Draining
            if not self._jobs:
                self._progress_at = self._clock()
            tokens = len(job.prompt.tokens)
            if not self._scheduler.add(job, tokens=tokens, slots=job.request.n):
                raise QueueFull(self._scheduler.retry_after())
            self._jobs.add(job)
            self._change.notify_all()

    def cancel(self, job: Job) -> None:
        """Ends a job's stream now and its work within one step or chunk."""
        job.cancelled = True
        job.mailbox.close()
        with self._change:
            self._look = True
            self._change.notify_all()

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no request is unfinished; whether that came in time."""
        with self._change:
            return self._change.wait_for(lambda: not self._jobs, timeout)

    def stop(self, timeout: float) -> bool:
        """Ends every job with Draining and the thread with them; whether it ended in time."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._thread.ident:
            self._thread.join(timeout)
        self._fail_all(Draining())
        return not self._thread.is_alive()

    # In the worker thread.

    def _main(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)
        finally:
            # Arrays and compiled steps must be freed in the thread that made them: MLX aborts the
            # process at exit otherwise.
            gc.collect()

    def _serve(self) -> None:
        again = self._load_and_work(self._load)
        while again:
            self._figures = self._unloaded_figures()
            again = self._wait_for_a_job() and self._load_and_work(self._load_again)

    def _load_and_work(self, load: Callable[[], Workshop | None]) -> bool:
        """Whether the model was unloaded, rather than everything ended."""
        shop = load()
        if shop is None:
            return self._unload.state == "unloaded"
        try:
            return self._work(shop, IdleWork(shop))
        except BaseException as error:
            log.exception("the worker thread died")
            self._die(f"{type(error).__name__}: {error}")
            raise
        finally:
            for job in list(self._running):
                self._drop(job)
            if self._dead is None:
                self._check_integrity(shop)
            if shop.journal is not None:
                shop.journal.write()
            if self._dead is None:
                shop.cache.close(CLOSE_CACHE_S)
            shop.cache.clear()

    def _unloaded_figures(self) -> Figures:
        """Frees what is left of the model, of which nothing is held by now."""
        before = self.figures
        limit = before.memory.get("limit_bytes", 0)
        self._cache = None
        gc.collect()
        active = self._backend.free()
        memory = {"active_bytes": active, "peak_bytes": active, "limit_bytes": limit}
        return replace(before, cache_bytes=0, cache_entries=0, memory=memory)

    def _wait_for_a_job(self) -> bool:
        """Whether one came, rather than the end."""
        with self._change:
            self._change.wait_for(lambda: self._jobs or self._stopping or self._dead)
            if not self._stopping and self._dead is None:
                return True
        self._fail_all(Draining() if self._dead is None else EngineDead(self._dead))
        return False

    def _load_again(self) -> Workshop | None:
        """As the first time; a failure is told to those who wait, and the next request tries
        anew."""
        self._unload.loading()
        try:
            shop = self._opened()
        except Exception as error:
            log.exception("the model could not be loaded again")
            traceback.clear_frames(error.__traceback__)
            self._unload.state = "unloaded"
            self._fail_all(LoadFailed(" ".join(str(error).split()) or type(error).__name__))
            return None
        self._unload.state = "loaded"
        self._progress_at = self._clock()
        return shop

    def _load(self) -> Workshop | None:
        self._working = False  # loading takes as long as it takes
        try:
            shop = self._opened()
        except BaseException as error:
            self._dead = f"loading failed: {error}"
            # The error leaves this thread; arrays in the frames it went through must not.
            traceback.clear_frames(error.__traceback__)
            self._on_ready(None, error)
            return None
        self._unload.state = "loaded"
        self._on_ready(shop.facts, None)
        return shop

    def _opened(self) -> Workshop:
        """Loads the model and what belongs to it. Turns and grammars outlive an unloading: they
        hold no arrays, and grammars take seconds to make."""
        model = self._backend.load()
        if self._fingerprint not in (None, model.fingerprint):
            raise ValueError("another checkpoint is in its place; restart the server to serve it")
        self._fingerprint = model.fingerprint
        model.warm_up()
        closing = model.tokenizer.encode(self._closing_text, allow_special=True)
        grammars = self.grammars or self._backend.grammars(model)
        first = self.turns is None
        turns = self._backend.turns() if first else self.turns
        cache = self._cache = self._open_cache(model)
        journal = cache.disk_folder and TurnJournal(cache.disk_folder / JOURNAL)
        if journal and first:
            journal.read(lambda line: turns.keep(self._backend.turn(line)))
        self.turns, self.grammars = turns, grammars
        facts = Facts.of(model)
        shop = Workshop(
            model,
            facts,
            self._backend,
            cache,
            model.decoder(alone=self._limits.deterministic),
            turns,
            tuple(closing),
            self._clock,
            journal,
            self._limits.deterministic,
        )
        self._measure(shop)
        return shop

    def _work(self, shop: Workshop, idle: IdleWork) -> bool:
        """Until the end, or (then it is True) until nobody has asked for so long that the model is
        to be unloaded."""
        warm = KeepWarm(self._limits.keep_warm_s if shop.model.on_gpu else None, self._clock)
        while self._dead is None:
            turn = None
            with self._change:
                while turn is None and not self._stopping:
                    self._drop_ended()
                    turn = self._scheduler.next()
                    if turn is not None or idle.waiting:
                        break
                    rest = None if self._jobs else self._unload.rest_s(self._progress_at)
                    if rest == 0:
                        log.info("idle: the model is unloaded; the next request loads it")
                        self._unload.state = "unloaded"
                        return True
                    tick = warm.wait()
                    if tick == 0:
                        break
                    self._change.wait(min((s for s in (rest, tick) if s is not None), default=None))
                if self._stopping:
                    break
            if turn is None and not idle.waiting:
                self._keep_warm(shop, warm)
                continue
            self._progress_at, self._working = self._clock(), True
            if turn is not None and self._awake(shop):
                self._take(turn, shop, idle)
            elif turn is None:
                self._use_idle_time(shop, idle)
            if self._progress_at - self._saved_at > SAVE_EVERY_S:
                self._saved_at = self._clock()
                idle.save_a_piece()
            self._progress_at, self._working = self._clock(), False
            warm.worked()
            self._measure(shop)
        self._fail_all(Draining() if self._dead is None else EngineDead(self._dead))
        return False

    def _keep_warm(self, shop: Workshop, warm: KeepWarm) -> None:
        """One tick, which the watchdog looks after, and which is no work: the engine stays idle."""
        idle_since = self._progress_at
        self._progress_at, self._working = self._clock(), True
        try:
            shop.model.touch()
            warm.ticked()
        except Exception:
            log.exception("the GPU could not be kept warm; it is given up")
            warm.stop()
        self._working = False
        with self._change:
            if not self._jobs:
                self._progress_at = idle_since

    def _awake(self, shop: Workshop) -> bool:
        """Whether the device works: tested where the machine slept since the last piece of work,
        which not every driver survives. No request's time went on meanwhile."""
        offset = self._time_of_day() - self._clock()
        slept, self._offset = offset - self._offset, offset
        if abs(slept) >= SLEPT_S:
            log.warning("the time of day jumped by %.0f s: the engine tests itself", slept)
            self._test_itself(shop, "after the machine slept")
        return self._dead is None

    def _take(self, turn: Turn[Job], shop: Workshop, idle: IdleWork) -> None:
        """Does one piece of work; a failure ends the requests that are in it, and nothing else."""
        fed = 0
        try:
            if isinstance(turn, Admit):
                fed = self._admit(turn.key, shop)
            elif isinstance(turn, Prefill):
                fed = self._prefill(turn.key, turn.tokens, shop)
            else:
                fed = self._decode(shop, idle)
        except Exception as error:
            if self._dead is not None:  # it came back too late: everybody was told long ago
                return
            jobs = [turn.key] if isinstance(turn, (Admit, Prefill)) else self._abandon_rows(shop)
            self._step_failed(jobs, error, shop)
        kind = type(turn).__name__.lower()
        self._durations[kind].add(self._clock() - self._progress_at)
        with self._change:
            self._scheduler.done(fed)

    def _admit(self, job: Job, shop: Workshop) -> int:
        with self._change:
            alone = self._scheduler.active == 1
        if not make_room(job, shop.model, shop.cache, alone=alone):
            with self._change:
                self._scheduler.postpone(job)
            return 0
        running = self._running[job] = Running(job, shop)
        try:
            running.begin()
        except Exception as error:
            if not is_memory_error(error):
                raise
            running = self._start_over(job, FIRST_CHUNK, shop)
        with self._change:
            if running.prefilled:
                self._scheduler.decoding(job)
            else:
                self._scheduler.prefilling(job, running.left, running.cached)
        self._own(running)
        return 1

    def _prefill(self, job: Job, tokens: int, shop: Workshop) -> int:
        running = self._running[job]
        try:
            fed = running.prefill(min(tokens, self._chunk_limits.get(job, tokens)))
        except FloatingPointError as error:  # the prompt's fault, not the device's
            log.error("request %s failed: %s", job.id, error)
            self._fail(job, StepFailed(NOT_FINITE))
            return 0
        except Exception as error:
            if not is_memory_error(error) or job in self._chunk_limits:
                raise
            self._start_over(job, max(1, tokens // 4), shop)
            return 0
        if running.prefilled:
            with self._change:
                self._scheduler.decoding(job)
            self._own(running)
        return fed

    def _start_over(self, job: Job, chunk: int, shop: Workshop) -> Running:
        """After memory ran out in a prompt: from its beginning, in chunks of at most `chunk`."""
        log.warning("out of memory in a prompt: the prompt cache is emptied and it starts over")
        shop.cache.clear()
        before = self._running[job]
        before.close()
        self._chunk_limits[job] = chunk
        running = self._running[job] = Running(job, shop)
        running.begin(told=before.told)
        return running

    def _own(self, running: Running) -> None:
        for row in running.rows:
            self._owners[row] = running

    def _decode(self, shop: Workshop, idle: IdleWork) -> int:
        for generation, token in shop.decoder.step():
            running = self._owners.get(generation)
            if running is None or running.job not in self._running:
                continue  # its request failed a moment ago, with another of its rows
            job = running.job
            try:
                done = running.take(generation, token)
            except EngineError as error:
                self._fail(job, error)
                continue
            except Exception as error:
                log.error("request %s failed", job.id, exc_info=error)
                self._fail(job, _step_failure(error))
                continue
            if done:
                del self._owners[generation]
                with self._change:
                    self._scheduler.rows_done(job)
            if running.finished:
                idle.after(running)
                self._drop(job)
        return 1

    def _abandon_rows(self, shop: Workshop) -> list[Job]:
        """The requests in a step that failed; their states are lost."""
        shop.decoder.abandon()
        jobs = dict.fromkeys(running.job for running in self._owners.values())
        self._owners.clear()
        return list(jobs)

    def _step_failed(self, jobs: list[Job], error: Exception, shop: Workshop) -> None:
        """Ends the requests of a step that raised, and finds out whether the device still works."""
        if is_memory_error(error):
            log.warning("out of memory: the prompt cache is emptied: %s", error)
            shop.cache.clear()
            for job in jobs:
                self._try_again(job)
            return
        log.error("a step of %s failed", ", ".join(j.id for j in jobs), exc_info=error)
        for job in jobs:
            self._fail(job, _step_failure(error))
        now, before = self._clock(), self._failed_at
        self._failed_at = now
        if before is not None and now - before < FAILURES_APART_S:
            self._die(f"two steps failed within {now - before:.0f} s: {type(error).__name__}")
            return
        self._test_itself(shop, "after a failed step")

    def _test_itself(self, shop: Workshop, when: str) -> None:
        try:
            shop.model.self_test()
        except Exception as failure:
            log.exception("the self-test failed")
            self._die(f"the self-test failed {when}: {type(failure).__name__}")

    def _try_again(self, job: Job) -> None:
        """After memory ran out in a step: once, the rows of `job` are computed anew. One after the
        other, and with the cache empty, they may fit."""
        running = self._running.get(job)
        if running is None or not running.prefilled or job in self._recovered:
            self._fail(job, OutOfMemory())
            return
        self._recovered.add(job)

        def go_on() -> bool:
            self._progress_at = self._clock()
            return not job.cancelled and self._progress_at < job.deadline and self._dead is None

        try:
            running.recover(go_on)
        except Exception as error:
            log.warning("request %s cannot be taken up again: %s", job.id, error)
            self._fail(job, OutOfMemory())
            return
        self._own(running)

    def _use_idle_time(self, shop: Workshop, idle: IdleWork) -> None:
        try:
            idle.work()
        except Exception:
            log.exception("work in idle time failed; it is given up")
            idle.give_up()
        if not idle.waiting:
            self._check_integrity(shop)

    def _check_integrity(self, shop: Workshop) -> None:
        """Idle, or at the end: no slot may be taken, no row decode, and the cache's accounts must
        agree. Where they do not, the log says so and everything that is held is freed."""
        try:
            with self._change:
                busy = bool(self._jobs)
                self._scheduler.check()
            if not busy and (self._running or self._owners or shop.decoder.members):
                raise AssertionError("nothing is asked for, but states are held")
            shop.cache.check()
        except AssertionError:
            self._accounts_broken += 1
            log.exception("the accounts do not add up; all that is held is freed")
            self._abandon_rows(shop)
            shop.cache.clear()

    def _fail(self, job: Job, error: EngineError) -> None:
        job.mailbox.close(error)
        self._drop(job)

    def _die(self, reason: str) -> None:
        self._dead = reason
        self._fail_all(EngineDead(reason))

    def _drop(self, job: Job) -> None:
        """Forgets a job and frees its state."""
        with self._change:
            self._forget(job)
        self._chunk_limits.pop(job, None)
        self._recovered.discard(job)
        running = self._running.pop(job, None)
        if running is None:
            return
        for row in [row for row, owner in self._owners.items() if owner is running]:
            del self._owners[row]
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

    def _fail_all(self, error: EngineError) -> None:
        with self._change:
            jobs = list(self._jobs)
            for job in jobs:
                self._forget(job)
        for job in jobs:
            job.mailbox.close(error)

    def _stack(self) -> str:
        """Where the worker thread is."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else "the thread has ended"

    def _measure(self, shop: Workshop) -> None:
        memory = shop.model.memory()
        self._figures = Figures(
            shop.cache.nbytes,
            shop.cache.entries,
            memory={
                "active_bytes": memory.active_bytes,
                "peak_bytes": memory.peak_bytes,
                "limit_bytes": memory.limit_bytes,
            },
            guesses=shop.model.guesses,
        )


def _step_failure(error: Exception) -> StepFailed:
    """What the client is told; the details are in the log."""
    return StepFailed(f"The engine failed on this request: {type(error).__name__}.")
