"""When a quiet server gives its weights back, and what waiting requests hear while they return.

Pure but for an injected monotonic clock; the worker, which owns the model, does what this decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from server.engine.events import ModelLoading

ModelState = Literal["loading", "loaded", "unloaded"]

FIRST_TOLD_S = 1.0  # a load that is over sooner is not worth a word
TOLD_EVERY_S = 2.0


class IdleUnload:
    """after_s: seconds without work after which the weights go; None is never.

    `state` is written by the worker thread and read by any.
    """

    def __init__(self, after_s: float | None, clock: Callable[[], float]) -> None:
        self._after_s = after_s
        self._clock = clock
        self._tell_at = clock() + FIRST_TOLD_S
        self.state: ModelState = "loading"

    def rest_s(self, quiet_since: float) -> float | None:
        """Seconds until the weights go, where nothing has been done since then: 0 is now, None is
        never."""
        if self._after_s is None:
            return None
        return max(0.0, self._after_s - (self._clock() - quiet_since))

    def loading(self) -> None:
        """A load begins."""
        self.state = "loading"
        self._tell_at = self._clock() + FIRST_TOLD_S

    def progress(self, done: int, total: int) -> ModelLoading | None:
        """`done` of `total` bytes are there: what to tell those who wait, now and then."""
        if self._clock() < self._tell_at:
            return None
        self._tell_at = self._clock() + TOLD_EVERY_S
        return ModelLoading(done, total)
