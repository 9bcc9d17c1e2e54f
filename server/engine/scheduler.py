"""Whose turn it is: the policy by which requests share the one worker.

A pure object over opaque keys: no mlx, no asyncio, no threads, and time only from the clock it is
given. The worker asks `next()`, does what it says, and tells `done()`.

batch_scheduler.py (decoding in batches) takes this file's place and name with the worker that
decodes in batches.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MIN_CHUNK = 32
MIN_CHUNK_ALONE = 128
MAX_CHUNK = 2048
CHUNK_MULTIPLE = 32
# Before anything was measured.
FIRST_CHUNK = 128
FIRST_CHUNK_ALONE = 512
# Seconds a chunk may take while nobody decodes: what a newcomer or a cancel waits for.
ALONE_S = 0.4
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True)
class Admit(Generic[Key]):
    """`key` leaves the queue; answer with prefilling() or decoding()."""

    key: Key


@dataclass(frozen=True, slots=True)
class Prefill(Generic[Key]):
    """Feed up to `tokens` tokens of `key`'s prompt."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Step(Generic[Key]):
    """Generate one token for `key`."""

    key: Key


Turn = Admit[Key] | Prefill[Key] | Step[Key]


@dataclass(slots=True)
class _Mean:
    """An exponentially weighted mean; None before the first figure."""

    value: float | None = None

    def add(self, figure: float) -> None:
        if self.value is None:
            self.value = figure
        else:
            self.value += _SMOOTHING * (figure - self.value)


@dataclass(slots=True)
class Scheduler(Generic[Key]):
    """Rounds of turns: every decoding request one step, then one prefilling request one chunk.

    The chunk is sized by measured time, so that a round, which is the gap a running stream sees,
    takes at most `target_gap_s` (seconds), but never below MIN_CHUNK tokens, so that no prompt
    starves. With nobody decoding it may take ALONE_S. Several prompts take turns chunk by chunk;
    requests are admitted first come, first served.

    max_active: requests admitted at once; max_queue: requests that may wait.
    """

    max_active: int
    max_queue: int
    target_gap_s: float
    clock: Callable[[], float]
    _waiting: deque[Key] = field(default_factory=deque)
    _prefilling: deque[Key] = field(default_factory=deque)
    _decoding: deque[Key] = field(default_factory=deque)
    _admitted: dict[Key, float] = field(default_factory=dict)
    _steps_left: int = 0
    _turn: Turn[Key] | None = None
    _turn_began: float = 0.0
    _step_s: _Mean = field(default_factory=_Mean)
    _token_s: _Mean = field(default_factory=_Mean)
    _request_s: _Mean = field(default_factory=_Mean)

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Requests admitted and not yet removed."""
        return len(self._admitted)

    @property
    def full(self) -> bool:
        """Whether add() would refuse."""
        free = self.max_active - self.active
        return len(self._waiting) >= self.max_queue + max(0, free)

    def add(self, key: Key) -> bool:
        """Queues `key`; False when the queue is full."""
        if self.full:
            return False
        self._waiting.append(key)
        return True

    def remove(self, key: Key) -> None:
        """Forgets `key`, wherever it is: finished, failed or cancelled."""
        began = self._admitted.pop(key, None)
        if began is not None:
            self._request_s.add(self.clock() - began)
        if key in self._waiting:
            self._waiting.remove(key)
        if key in self._prefilling:
            self._prefilling.remove(key)
        if key in self._decoding:
            # Turns are taken from the left: the first _steps_left have theirs still to come.
            if self._decoding.index(key) < self._steps_left:
                self._steps_left -= 1
            self._decoding.remove(key)

    def prefilling(self, key: Key) -> None:
        """`key`, just admitted, has prompt tokens to feed."""
        self._prefilling.append(key)

    def decoding(self, key: Key) -> None:
        """`key` has its prompt fed and wants steps from now on."""
        if key in self._prefilling:
            self._prefilling.remove(key)
        self._decoding.append(key)

    def next(self) -> Turn[Key] | None:
        """The next turn, None when there is nothing to do."""
        self._turn = self._choose()
        self._turn_began = self.clock()
        return self._turn

    def done(self, tokens: int = 1) -> None:
        """The turn last given is over; `tokens`: how many a Prefill really fed."""
        seconds = self.clock() - self._turn_began
        if isinstance(self._turn, Step):
            self._step_s.add(seconds)
        elif isinstance(self._turn, Prefill) and tokens > 0:
            self._token_s.add(seconds / tokens)
        self._turn = None

    def retry_after(self) -> int:
        """Whole seconds (1 to 60) after which a refused request may find a place."""
        per_request = (self._request_s.value or 1.0) / self.max_active
        return max(1, min(60, math.ceil(per_request * (len(self._waiting) + 1) / 2)))

    def _choose(self) -> Turn[Key] | None:
        if self._waiting and self.active < self.max_active:
            key = self._waiting.popleft()
            self._admitted[key] = self.clock()
            return Admit(key)
        if self._steps_left > 0:
            self._steps_left -= 1
            self._decoding.rotate(-1)
            return Step(self._decoding[-1])
        self._steps_left = len(self._decoding)
        if self._prefilling:
            self._prefilling.rotate(-1)
            return Prefill(self._prefilling[-1], self._chunk())
        if self._steps_left:
            return self._choose()
        return None

    def _chunk(self) -> int:
        alone = not self._decoding
        if self._token_s.value is None:
            return FIRST_CHUNK_ALONE if alone else FIRST_CHUNK
        room = ALONE_S if alone else self.target_gap_s
        room -= len(self._decoding) * (self._step_s.value or 0.0)
        tokens = int(room / max(self._token_s.value, 1e-9))
        least = MIN_CHUNK_ALONE if alone else MIN_CHUNK
        return max(least, min(MAX_CHUNK, tokens // CHUNK_MULTIPLE * CHUNK_MULTIPLE))
