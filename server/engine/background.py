"""One thread that does pieces of work in the order given, with a bound on the bytes that wait.

Knows callables and their sizes, not what they do.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """Work is refused, not waited for, when more than `limit_bytes` would be kept waiting."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._change = threading.Condition()
        self._work: deque[tuple[Callable[[], None], int]] = deque()
        self._waiting = 0
        self._busy = False
        self._closing = False
        # A daemon: a disk that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    @property
    def waiting_bytes(self) -> int:
        return self._waiting

    def room(self, nbytes: int, timeout: float) -> bool:
        """Whether `nbytes` more may wait, after at most `timeout` seconds. One piece of any size
        fits when nothing waits."""
        with self._change:
            return self._change.wait_for(lambda: self._fits(nbytes), timeout)

    def submit(self, work: Callable[[], None], nbytes: int = 0) -> bool:
        """Queues `work`; False when there is no room or the thread is closed."""
        with self._change:
            if self._closing or not self._fits(nbytes):
                return False
            if not self._thread.ident:
                self._thread.start()
            self._work.append((work, nbytes))
            self._waiting += nbytes
            self._change.notify_all()
            return True

    def idle(self, timeout: float) -> bool:
        """Waits until all work is done; whether that came in time."""
        with self._change:
            return self._change.wait_for(lambda: not self._work and not self._busy, timeout)

    def close(self, timeout: float) -> bool:
        """Does what waits, within `timeout` seconds, and ends the thread; whether all was done."""
        deadline = time.monotonic() + timeout
        done = self.idle(timeout)
        with self._change:
            self._closing = True
            self._work.clear()
            self._waiting = 0
            self._change.notify_all()
        if self._thread.ident:
            self._thread.join(max(deadline - time.monotonic(), 0.1))
        return done

    def _fits(self, nbytes: int) -> bool:
        return not nbytes or not self._waiting or self._waiting + nbytes <= self._limit

    def _main(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._work or self._closing)
                if not self._work:
                    return
                work, nbytes = self._work.popleft()
                self._busy = True
            try:
                work()
            except Exception:
                log.exception("%s: a piece of work failed", self._thread.name)
            # What it held is freed before it stops counting.
            del work
            with self._change:
                self._busy = False
                self._waiting = max(self._waiting - nbytes, 0)
                self._change.notify_all()
