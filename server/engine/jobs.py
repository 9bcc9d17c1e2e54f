"""The requests that have not ended, and whose turn it is, behind the one lock that the worker
shares with other threads. Knows nothing of the model or of the states that requests hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from server.engine.errors import Draining, EngineDead, EngineError, QueueFull, RequestTimeout
from server.engine.events import Event
from server.engine.job import Job
from server.engine.scheduler import Scheduler


class Jobs:
    """`change` is the lock, re-entrant, and is notified when anything here changes; the scheduler
    is touched under it only. Times are seconds of `clock`, which is monotonic."""

    def __init__(self, scheduler: Scheduler[Job], clock: Callable[[], float]) -> None:
        self.change = threading.Condition()
        self.scheduler = scheduler
        self.stopping = False
        self.dead: str | None = None  # why nobody will ever be answered again
        self._clock = clock
        self._all: set[Job] = set()
        self._look = False  # one was cancelled: look for it

    def __bool__(self) -> bool:
        return bool(self._all)

    def check_room(self, slots: int) -> None:
        """Raises QueueFull when add() would for a request of `slots` choices."""
        with self.change:
            if self.scheduler.full(slots):
                raise QueueFull(self.scheduler.retry_after())

    def add(self, job: Job) -> None:
        """Queues a job. Raises QueueFull, EngineDead or Draining."""
        with self.change:
            if self.dead is not None:
                raise EngineDead(self.dead)
            if self.stopping:
                raise Draining
            tokens = len(job.prompt.tokens)
            if not self.scheduler.add(job, tokens=tokens, slots=job.request.n):
                raise QueueFull(self.scheduler.retry_after())
            self._all.add(job)
            self.change.notify_all()

    def cancel(self, job: Job) -> None:
        """Ends a job's stream now; the worker forgets it between two pieces of work."""
        job.cancelled = True
        job.mailbox.close()
        with self.change:
            self._look = True
            self.change.notify_all()

    def ended(self) -> list[Job]:
        """Jobs that were cancelled or whose time is up, and who have been told; to be forgotten by
        the caller, who holds the lock."""
        now = self._clock()
        found = [job for job in self._all if job.deadline <= now]
        for job in found:
            job.mailbox.close(RequestTimeout(now - job.submitted_at))
        if self._look:
            self._look = False
            found += [job for job in self._all if job.cancelled and job not in found]
        return found

    def forget(self, job: Job) -> None:
        with self.change:
            self.scheduler.remove(job)
            self._all.discard(job)
            self.change.notify_all()

    def tell(self, event: Event) -> None:
        """Puts an event into everybody's stream."""
        with self.change:
            for job in self._all:
                job.mailbox.put(event)

    def fail_all(self, error: EngineError) -> None:
        with self.change:
            jobs = list(self._all)
            for job in jobs:
                self.forget(job)
        for job in jobs:
            job.mailbox.close(error)

    def end_all(self) -> None:
        """Nobody works on them any more: they are told why."""
        self.fail_all(Draining() if self.dead is None else EngineDead(self.dead))

    def die(self, reason: str) -> None:
        """Everybody is told, and nobody is taken any more."""
        self.dead = reason
        self.fail_all(EngineDead(reason))

    def wait_idle(self, timeout: float) -> bool:
        """Waits until there are none; whether that came in time."""
        with self.change:
            return self.change.wait_for(lambda: not self._all, timeout)
