"""On a Mac: no idle sleep while requests are worked on, and at no other time.

`caffeinate -i` holds the assertion; it ends by itself with this process (-w). Closing the lid and
the menu's Sleep still put the machine to sleep. Knows whether there is work, not what it is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# An agent's next turn comes soon; a process for each of them would be one too many.
LINGER_S = 15.0


class Child(Protocol):
    """A process that was started; subprocess.Popen is one."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


class StayAwake:
    """start: begins the assertion, and raises OSError where it cannot; then it is given up."""

    def __init__(self, start: Callable[[], Child], clock: Callable[[], float]) -> None:
        self._start: Callable[[], Child] | None = start
        self._clock = clock
        self._child: Child | None = None
        self._busy_at = clock()

    def update(self, *, busy: bool) -> None:
        """To be called now and then, with whether there is work."""
        now = self._clock()
        if busy:
            self._busy_at = now
            if self._start is not None and (self._child is None or self._child.poll() is not None):
                self._begin(self._start)
        elif now - self._busy_at >= LINGER_S:
            self.close()

    def close(self) -> None:
        """The machine may sleep."""
        child, self._child = self._child, None
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait(LINGER_S)

    def _begin(self, start: Callable[[], Child]) -> None:
        try:
            self._child = start()
        except OSError as error:
            self._start = None
            log.warning("the machine may fall asleep while it works: %s", error)


def caffeinate() -> Child:
    """Raises OSError."""
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    return subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


async def stay_awake(busy: Callable[[], bool], platform: str = sys.platform) -> None:
    """Looks after it until it is cancelled; elsewhere than on a Mac at once over."""
    if platform != "darwin":
        return
    awake = StayAwake(caffeinate, time.monotonic)
    try:
        while True:
            awake.update(busy=busy())
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        awake.close()
