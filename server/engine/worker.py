"""The one thread that owns the model: loads it, works off requests, gives it back when nobody asks.

Nothing a request does ends the thread (`workbench.py`). A step that does not come back, or a thread
that ends, makes the worker dead, and everybody is told. What it shares with other threads is in
`jobs.py`, behind a lock, and in `work_record.py`.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.engine.durations import Durations
from server.engine.errors import Draining, EngineDead, LoadFailed
from server.engine.idle_unload import IdleUnload, ModelState
from server.engine.job import Job
from server.engine.jobs import Jobs
from server.engine.keep_warm import KeepWarm
from server.engine.ports import Backend, Facts, Grammars
from server.engine.prompt_cache import PromptCache
from server.engine.running import Workshop
from server.engine.scheduler import Scheduler
from server.engine.turn_journal import JOURNAL, TurnJournal
from server.engine.work_record import Figures, WorkRecord
from server.engine.workbench import Workbench

log = logging.getLogger(__name__)

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
        self._open_cache = open_cache
        self._limits = limits
        self._closing_text = closing_text
        self._clock = clock
        self._time_of_day = time_of_day
        self._offset = time_of_day() - clock()
        self._on_ready = on_ready
        self._jobs = Jobs(scheduler, clock)
        self._record = WorkRecord(clock)
        self._saved_at = clock()
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
        if self._jobs.dead is None and self._thread.ident and not self._thread.is_alive():
            return "the worker thread ended"
        return self._jobs.dead

    @property
    def ended(self) -> bool:
        """Whether the thread has ended because it was told to."""
        return self._jobs.stopping and self._jobs.dead is None and not self._thread.is_alive()

    @property
    def accounts_broken(self) -> int:
        """How many checks of slots and bytes have failed."""
        return self._record.accounts_broken

    @property
    def slots_used(self) -> int:
        """Rows of the batch that belong to admitted requests."""
        return self._jobs.scheduler.slots_used

    @property
    def queued(self) -> int:
        return self._jobs.scheduler.queued

    @property
    def figures(self) -> Figures:
        """As of the last piece of work; the disk's as of now, for its writer ends later."""
        cache, figures = self._cache, self._record.figures
        return figures if cache is None else replace(figures, disk_bytes=cache.disk_bytes)

    @property
    def model_state(self) -> ModelState:
        """Whether the weights are there; while they are not, requests wait for them."""
        return self._unload.state

    @property
    def durations(self) -> Mapping[str, Durations]:
        """How long pieces of work took so far, by kind."""
        return self._record.durations

    @property
    def progress_age(self) -> float | None:
        """Seconds since the last piece of work ended; None when there is none to do."""
        return self._record.age if self._jobs else None

    def watch(self) -> None:
        """Looks after the worker, from another thread, now and then: one whose piece of work does
        not come back, or whose thread has ended, is dead, and everybody is told."""
        jobs, age = self._jobs, self._record.age
        if self._record.working and age > self._limits.watchdog_s and jobs.dead is None:
            log.critical("a step has not come back for %.0f s:\n%s", age, self._stack())
            jobs.dead = f"a step did not return within {self._limits.watchdog_s:g} s"
        if self._unload.state != "loaded":  # the worker may be loading: it looks at nobody's time
            with jobs.change:
                for job in jobs.ended():
                    jobs.forget(job)
        dead = self.dead
        if dead is not None and jobs:
            jobs.fail_all(EngineDead(dead))

    def loading(self, done: int, total: int) -> None:
        """Tells those who wait for the weights how many bytes are there; from any thread."""
        event = self._unload.progress(done, total)
        if event is not None:
            self._jobs.tell(event)

    def check_room(self, slots: int) -> None:
        """Raises QueueFull when add() would for a request of `slots` choices."""
        self._jobs.check_room(slots)

    def add(self, job: Job) -> None:
        """Queues a job. Raises QueueFull, EngineDead or Draining."""
        dead = self.dead
        if dead is not None:
            raise EngineDead(dead)
        with self._jobs.change:
            if not self._jobs:
                self._record.go_on()
            self._jobs.add(job)

    def cancel(self, job: Job) -> None:
        """Ends a job's stream now and its work within one step or chunk."""
        self._jobs.cancel(job)

    def wait_idle(self, timeout: float) -> bool:
        """Waits until no request is unfinished; whether that came in time."""
        return self._jobs.wait_idle(timeout)

    def stop(self, timeout: float) -> bool:
        """Ends every job with Draining and the thread with them; whether it ended in time."""
        with self._jobs.change:
            self._jobs.stopping = True
            self._jobs.change.notify_all()
        if self._thread.ident:
            self._thread.join(timeout)
        self._jobs.fail_all(Draining())
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
            self._record.figures = self._unloaded_figures()
            again = self._wait_for_a_job() and self._load_and_work(self._load_again)

    def _load_and_work(self, load: Callable[[], Workbench | None]) -> bool:
        """Whether the model was unloaded, rather than everything ended."""
        bench = load()
        if bench is None:
            return self._unload.state == "unloaded"
        try:
            return self._work(bench)
        except BaseException as error:
            log.exception("the worker thread died")
            self._jobs.die(f"{type(error).__name__}: {error}")
            raise
        finally:
            bench.close()

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
        jobs = self._jobs
        with jobs.change:
            jobs.change.wait_for(lambda: jobs or jobs.stopping or jobs.dead)
            if not jobs.stopping and jobs.dead is None:
                return True
        jobs.end_all()
        return False

    def _load_again(self) -> Workbench | None:
        """As the first time; a failure is told to those who wait, and the next request tries
        anew."""
        self._unload.loading()
        try:
            bench = self._opened()
        except Exception as error:
            log.exception("the model could not be loaded again")
            traceback.clear_frames(error.__traceback__)
            self._unload.state = "unloaded"
            self._jobs.fail_all(LoadFailed(" ".join(str(error).split()) or type(error).__name__))
            return None
        self._unload.state = "loaded"
        self._record.go_on()
        return bench

    def _load(self) -> Workbench | None:
        try:
            bench = self._opened()
        except BaseException as error:
            self._jobs.dead = f"loading failed: {error}"
            # The error leaves this thread; arrays in the frames it went through must not.
            traceback.clear_frames(error.__traceback__)
            self._on_ready(None, error)
            return None
        self._unload.state = "loaded"
        self._on_ready(bench.shop.facts, None)
        return bench

    def _opened(self) -> Workbench:
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
        bench = Workbench(shop, self._jobs, self._record, self._clock)
        bench.measure()
        return bench

    def _work(self, bench: Workbench) -> bool:
        """Until the end, or (then it is True) until nobody has asked for so long that the model is
        to be unloaded."""
        jobs, record, idle = self._jobs, self._record, bench.idle
        on_gpu = bench.shop.model.on_gpu
        warm = KeepWarm(self._limits.keep_warm_s if on_gpu else None, self._clock)
        while jobs.dead is None:
            turn = None
            with jobs.change:
                while turn is None and not jobs.stopping:
                    for job in jobs.ended():
                        bench.drop(job)
                    turn = jobs.scheduler.next()
                    if turn is not None or idle.waiting:
                        break
                    rest = None if jobs else self._unload.rest_s(record.progress_at)
                    if rest == 0:
                        log.info("idle: the model is unloaded; the next request loads it")
                        self._unload.state = "unloaded"
                        return True
                    tick = warm.wait()
                    if tick == 0:
                        break
                    jobs.change.wait(min((s for s in (rest, tick) if s is not None), default=None))
                if jobs.stopping:
                    break
            if turn is None and not idle.waiting:
                self._keep_warm(bench, warm)
                continue
            record.begin()
            if turn is not None and self._awake(bench):
                bench.take(turn)
            elif turn is None:
                bench.use_idle_time()
            if record.progress_at - self._saved_at > SAVE_EVERY_S:
                self._saved_at = self._clock()
                idle.save_a_piece()
            record.end()
            warm.worked()
            bench.measure()
        jobs.end_all()
        return False

    def _keep_warm(self, bench: Workbench, warm: KeepWarm) -> None:
        """One tick, which the watchdog looks after, and which is no work: the engine stays idle."""
        record, idle_since = self._record, self._record.progress_at
        record.begin()
        try:
            bench.shop.model.touch()
            warm.ticked()
        except Exception:
            log.exception("the GPU could not be kept warm; it is given up")
            warm.stop()
        record.working = False
        with self._jobs.change:
            if not self._jobs:
                record.progress_at = idle_since

    def _awake(self, bench: Workbench) -> bool:
        """Whether the device works: tested where the machine slept since the last piece of work,
        which not every driver survives. No request's time went on meanwhile."""
        offset = self._time_of_day() - self._clock()
        slept, self._offset = offset - self._offset, offset
        if abs(slept) >= SLEPT_S:
            log.warning("the time of day jumped by %.0f s: the engine tests itself", slept)
            bench.test_itself("after the machine slept")
        return self._jobs.dead is None

    def _stack(self) -> str:
        """Where the worker thread is."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else "the thread has ended"
