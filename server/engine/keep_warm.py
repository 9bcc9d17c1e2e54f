"""When an idle GPU is given something tiny to do, so that its clock does not fall between requests.

A pure policy by an injected clock: what the tiny thing is, and who waits, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

EVERY_S = 0.05  # between two ticks
SOON_S = 0.001  # not worth waiting for


class KeepWarm:
    """Ticks for `seconds` after the last piece of work; None is never. clock: seconds, monotonic.

    Used by the worker thread only.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._worked_at: float | None = None  # before any work there is nothing to keep
        self._busy_at = 0.0  # the end of the last piece of work or tick

    def worked(self) -> None:
        """A piece of work has ended."""
        self._worked_at = self._busy_at = self._clock()

    def ticked(self) -> None:
        """A tick has ended."""
        self._busy_at = self._clock()

    def stop(self) -> None:
        """No more ticks, ever: one of them failed."""
        self._seconds = None

    def wait(self) -> float | None:
        """Seconds until the next tick is due, 0 when it is; None where none will be."""
        if self._seconds is None or self._worked_at is None:
            return None
        due = self._busy_at + EVERY_S
        if due > self._worked_at + self._seconds:
            return None
        left = due - self._clock()
        return left if left > SOON_S else 0.0
