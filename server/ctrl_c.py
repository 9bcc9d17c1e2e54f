"""Ctrl-C in an interactive program: not ignored, and not heard late.

Python notes a signal and handles it between two bytecodes. A signal that comes after the last look
and before a blocking call, of readline or of the event loop, waits until that call returns: at a
prompt, until the next key. A tick interrupts such calls, so that they look again.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

TICK_S = 0.2


@contextlib.contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt at most a tick late. Only for the main thread."""
    # Shells start background jobs with the signal ignored, and everything below them inherits it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    ticks_before = signal.signal(signal.SIGALRM, _tick)
    signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, ticks_before)
        signal.signal(signal.SIGINT, before)


def _tick(*_: object) -> None:
    """Nothing: that it ran made the interrupted call look for other signals."""
