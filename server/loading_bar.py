"""Shows how far a model's loading or conversion is: a bar on a terminal, lines in a log.

Knows bytes and time; nothing of models. What is over at once shows nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TextIO

log = logging.getLogger(__name__)

WIDTH = 30
QUIET_S = 0.5
BAR_EVERY_S = 0.1
LINE_EVERY_S = 5.0


class LoadingBar:
    """Called with (bytes done, bytes total), from one thread."""

    def __init__(
        self,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        *,
        doing: str = "loading",
        eta: bool = False,
    ) -> None:
        """doing: the word for it; eta: say how much longer, by the speed so far."""
        self._out = out
        self._doing = doing
        self._eta = eta
        self._began: tuple[float, int] | None = None
        self._terminal = out.isatty()
        self._clock = clock
        self._next: float | None = None
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._next is None or self._began is None:
            self._next = now + QUIET_S
            self._began = now, done
        complete = done >= total
        if total <= 0 or (now < self._next and not (complete and self._shown)):
            return
        self._next = now + (BAR_EVERY_S if self._terminal else LINE_EVERY_S)
        self._shown = True
        share = min(1.0, done / total)
        if not self._terminal:
            line = f"{self._doing}: %d of %d MB (%d %%)%s"
            left = self._left(now, done, total)
            log.info(line, done // 10**6, total // 10**6, share * 100, left)
            return
        bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
        end = "\n" if complete else ""
        left = self._left(now, done, total).ljust(16) if self._eta else ""
        size = f"{done / 1e9:.1f} of {total / 1e9:.1f} GB"
        self._out.write(f"\r{self._doing} [{bar}] {size}{left}{end}")
        self._out.flush()

    def _left(self, now: float, done: int, total: int) -> str:
        """, 1:02:03 left; nothing where it is over, not asked for or not yet to be known."""
        began, first = self._began or (now, done)
        if not self._eta or done >= total or done <= first or now <= began:
            return ""
        minutes, seconds = divmod(round((total - done) * (now - began) / (done - first)), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f", {clock} left"
