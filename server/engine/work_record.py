"""What the worker has done and is doing: written by its thread, read by any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from server.engine.durations import Durations


@dataclass(frozen=True, slots=True)
class Figures:
    """Bytes and entries of the prompt cache, memory of the device, bytes of the disk tier; guesses
    of the MTP head: row-steps with some, how many were drafted, how many accepted."""

    cache_bytes: int = 0
    cache_entries: int = 0
    memory: Mapping[str, int] = field(default_factory=dict)
    disk_bytes: int = 0
    guesses: Mapping[str, int] = field(default_factory=dict)


class WorkRecord:
    """progress_at: when the last piece of work began or ended, whichever came later, in seconds of
    `clock`, which is monotonic; working: whether one is under way. failed_at: when a step failed
    last. accounts_broken: how many checks of slots and bytes have failed. durations: how long
    pieces of work took, by kind."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.progress_at = clock()
        self.working = False
        self.failed_at: float | None = None
        self.accounts_broken = 0
        self.durations = {kind: Durations() for kind in ("decode", "prefill", "admit")}
        self.figures = Figures()

    def begin(self) -> None:
        """A piece of work begins."""
        self.progress_at, self.working = self._clock(), True

    def end(self) -> None:
        """It came back."""
        self.progress_at, self.working = self._clock(), False

    def go_on(self) -> None:
        """A part of it came back: the watchdog's time begins anew."""
        self.progress_at = self._clock()

    @property
    def age(self) -> float:
        """Seconds since progress_at."""
        return self._clock() - self.progress_at
