"""Shows how far a model's loading is: a bar on a terminal, lines in a log.

Knows bytes and time; nothing of models. A load that is over at once shows nothing.
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

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._clock = clock
        self._next: float | None = None
        self._shown = False

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._next is None:
            self._next = now + QUIET_S
        complete = done >= total
        if total <= 0 or (now < self._next and not (complete and self._shown)):
            return
        self._next = now + (BAR_EVERY_S if self._terminal else LINE_EVERY_S)
        self._shown = True
        share = min(1.0, done / total)
        if not self._terminal:
            log.info("loading: %d of %d MB (%d %%)", done // 10**6, total // 10**6, share * 100)
            return
        bar = ("#" * round(share * WIDTH)).ljust(WIDTH, ".")
        end = "\n" if complete else ""
        self._out.write(f"\rloading [{bar}] {done / 1e9:.1f} of {total / 1e9:.1f} GB{end}")
        self._out.flush()
