"""The pieces of work on one loaded model: a request is admitted, a chunk of its prompt read, a step
decoded, idle time used; and what happens when one of them fails.

Whatever fails ends the requests that are in it, and nothing else; a second failed step soon after,
or a failed self-test, makes the worker dead. Used by the worker thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from server.engine.chunk_size import FIRST_CHUNK
from server.engine.errors import EngineError, OutOfMemory, StepFailed
from server.engine.idle_work import IdleWork
from server.engine.job import Job
from server.engine.jobs import Jobs
from server.engine.memory_room import is_memory_error, make_room
from server.engine.running import NOT_FINITE, Running, Workshop
from server.engine.scheduler import Admit, Prefill, Turn
from server.engine.work_record import Figures, WorkRecord

log = logging.getLogger(__name__)

# Two failed steps within this time: the device, not a request, is at fault.
FAILURES_APART_S = 60.0
CLOSE_CACHE_S = 5.0


class Workbench:
    """Holds the states of the requests that run. `clock` is monotonic, in seconds."""

    def __init__(
        self, shop: Workshop, jobs: Jobs, record: WorkRecord, clock: Callable[[], float]
    ) -> None:
        self.shop = shop
        self.idle = IdleWork(shop)
        self._jobs = jobs
        self._record = record
        self._clock = clock
        self._running: dict[Job, Running] = {}
        self._owners: dict[Any, Running] = {}  # by the generation that decodes
        self._chunk_limits: dict[Job, int] = {}  # of prompts that ran out of memory once
        self._recovered: set[Job] = set()  # lost their rows once, to a lack of memory

    def take(self, turn: Turn[Job]) -> None:
        """Does what the scheduler has said; nothing is raised."""
        fed = 0
        try:
            if isinstance(turn, Admit):
                fed = self._admit(turn.key)
            elif isinstance(turn, Prefill):
                fed = self._prefill(turn.key, turn.tokens)
            else:
                fed = self._decode()
        except Exception as error:
            if self._jobs.dead is not None:  # it came back too late: everybody was told long ago
                return
            jobs = [turn.key] if isinstance(turn, (Admit, Prefill)) else self._abandon_rows()
            self._step_failed(jobs, error)
        kind = type(turn).__name__.lower()
        self._record.durations[kind].add(self._record.age)
        with self._jobs.change:
            self._jobs.scheduler.done(fed)

    def use_idle_time(self) -> None:
        """A small piece of what the next requests will need; nothing is raised."""
        try:
            self.idle.work()
        except Exception:
            log.exception("work in idle time failed; it is given up")
            self.idle.give_up()
        if not self.idle.waiting:
            self._check_integrity()

    def test_itself(self, when: str) -> None:
        """Whether the device still works: if not, the worker is dead."""
        try:
            self.shop.model.self_test()
        except Exception as failure:
            log.exception("the self-test failed")
            self._jobs.die(f"the self-test failed {when}: {type(failure).__name__}")

    def measure(self) -> None:
        """Tells the record what is held."""
        shop, memory = self.shop, self.shop.model.memory()
        self._record.figures = Figures(
            shop.cache.nbytes,
            shop.cache.entries,
            memory={
                "active_bytes": memory.active_bytes,
                "peak_bytes": memory.peak_bytes,
                "limit_bytes": memory.limit_bytes,
            },
            guesses=shop.model.guesses,
        )

    def drop(self, job: Job) -> None:
        """Forgets a job and frees its state."""
        self._jobs.forget(job)
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

    def close(self) -> None:
        """Frees all states, and saves what is worth it unless the device may be at fault."""
        for job in list(self._running):
            self.drop(job)
        sound = self._jobs.dead is None
        if sound:
            self._check_integrity()
        if self.shop.journal is not None:
            self.shop.journal.write()
        if sound:
            self.shop.cache.close(CLOSE_CACHE_S)
        self.shop.cache.clear()

    def _admit(self, job: Job) -> int:
        shop, scheduler = self.shop, self._jobs.scheduler
        with self._jobs.change:
            alone = scheduler.active == 1
        if not make_room(job, shop.model, shop.cache, alone=alone):
            with self._jobs.change:
                scheduler.postpone(job)
            return 0
        running = self._running[job] = Running(job, shop)
        try:
            running.begin()
        except Exception as error:
            if not is_memory_error(error):
                raise
            running = self._start_over(job, FIRST_CHUNK)
        with self._jobs.change:
            if running.prefilled:
                scheduler.decoding(job)
            else:
                scheduler.prefilling(job, running.left, running.cached)
        self._own(running)
        return 1

    def _prefill(self, job: Job, tokens: int) -> int:
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
            self._start_over(job, max(1, tokens // 4))
            return 0
        if running.prefilled:
            with self._jobs.change:
                self._jobs.scheduler.decoding(job)
            self._own(running)
        return fed

    def _start_over(self, job: Job, chunk: int) -> Running:
        """After memory ran out in a prompt: from its beginning, in chunks of at most `chunk`."""
        log.warning("out of memory in a prompt: the prompt cache is emptied and it starts over")
        self.shop.cache.clear()
        before = self._running[job]
        before.close()
        self._chunk_limits[job] = chunk
        running = self._running[job] = Running(job, self.shop)
        running.begin(told=before.told)
        return running

    def _own(self, running: Running) -> None:
        for row in running.rows:
            self._owners[row] = running

    def _decode(self) -> int:
        for generation, token in self.shop.decoder.step():
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
                with self._jobs.change:
                    self._jobs.scheduler.rows_done(job)
            if running.finished:
                self.idle.after(running)
                self.drop(job)
        return 1

    def _abandon_rows(self) -> list[Job]:
        """The requests in a step that failed; their states are lost."""
        self.shop.decoder.abandon()
        jobs = dict.fromkeys(running.job for running in self._owners.values())
        self._owners.clear()
        return list(jobs)

    def _step_failed(self, jobs: list[Job], error: Exception) -> None:
        """Ends the requests of a step that raised, and finds out whether the device still works."""
        if is_memory_error(error):
            log.warning("out of memory: the prompt cache is emptied: %s", error)
            self.shop.cache.clear()
            for job in jobs:
                self._try_again(job)
            return
        log.error("a step of %s failed", ", ".join(j.id for j in jobs), exc_info=error)
        for job in jobs:
            self._fail(job, _step_failure(error))
        now, before = self._clock(), self._record.failed_at
        self._record.failed_at = now
        if before is not None and now - before < FAILURES_APART_S:
            apart = f"two steps failed within {now - before:.0f} s"
            self._jobs.die(f"{apart}: {type(error).__name__}")
            return
        self.test_itself("after a failed step")

    def _try_again(self, job: Job) -> None:
        """After memory ran out in a step: once, the rows of `job` are computed anew. One after the
        other, and with the cache empty, they may fit."""
        running = self._running.get(job)
        if running is None or not running.prefilled or job in self._recovered:
            self._fail(job, OutOfMemory())
            return
        self._recovered.add(job)

        def go_on() -> bool:
            self._record.go_on()
            in_time = self._record.progress_at < job.deadline
            return not job.cancelled and in_time and self._jobs.dead is None

        try:
            running.recover(go_on)
        except Exception as error:
            log.warning("request %s cannot be taken up again: %s", job.id, error)
            self._fail(job, OutOfMemory())
            return
        self._own(running)

    def _check_integrity(self) -> None:
        """Idle, or at the end: no slot may be taken, no row decode, and the cache's accounts must
        agree. Where they do not, the log says so and everything that is held is freed."""
        shop = self.shop
        try:
            with self._jobs.change:
                busy = bool(self._jobs)
                self._jobs.scheduler.check()
            if not busy and (self._running or self._owners or shop.decoder.members):
                raise AssertionError("nothing is asked for, but states are held")
            shop.cache.check()
        except AssertionError:
            self._record.accounts_broken += 1
            log.exception("the accounts do not add up; all that is held is freed")
            self._abandon_rows()
            shop.cache.clear()

    def _fail(self, job: Job, error: EngineError) -> None:
        job.mailbox.close(error)
        self.drop(job)


def _step_failure(error: Exception) -> StepFailed:
    """What the client is told; the details are in the log."""
    return StepFailed(f"The engine failed on this request: {type(error).__name__}.")
