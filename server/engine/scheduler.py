"""Whose turn it is: the policy by which requests share the one worker.

A pure object over opaque keys: no mlx, no asyncio, no threads, and time only from the clock it is
given. The worker asks next(), does what it says, tells what became of the request, then done().

A turn that fails counts as none: remove() the request (or all of a Decode) and call done(0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from server.engine.admission import Waiting, WaitingLine, insist
from server.engine.chunk_size import MIN_CHUNK, ChunkSizer
from server.engine.decode_cost import DecodeCost, RecentCost

Key = TypeVar("Key", bound=Hashable)

# Seconds a chunk may take while nobody decodes: what a newcomer or a cancel waits for. There are
# devices that need longer for MIN_CHUNK_ALONE tokens; once it was LONGEST_S, fewer do.
ALONE_S = 0.4
MIN_CHUNK_ALONE = 128
LONGEST_S = 5.0
_OF_GAP = 0.9  # what is planned for: the rest is the way to the client, and what was not foreseen
_SMOOTHING = 0.3
_MAX_RETRY_S = 60


@dataclass(frozen=True, slots=True)
class Admit(Generic[Key]):
    """`key` leaves the queue; answer with prefilling(), decoding(), postpone() or remove()."""

    key: Key


@dataclass(frozen=True, slots=True)
class Prefill(Generic[Key]):
    """Feed up to `tokens` tokens of `key`'s prompt; call decoding() when all is fed."""

    key: Key
    tokens: int


@dataclass(frozen=True, slots=True)
class Decode:
    """One batched step: a token for every row of every request that is decoding."""


Turn = Admit[Key] | Prefill[Key] | Decode


class _Phase(Enum):
    STARTING = "admitted, not answered yet"
    PREFILLING = "prefilling"
    DECODING = "decoding"


@dataclass(slots=True)
class _Active:
    """An admitted request. left: prompt tokens to feed after `context` fed or cached ones;
    began: seconds of the clock at its admission."""

    waiting: Waiting
    slots: int
    began: float
    phase: _Phase = _Phase.STARTING
    left: int = 0
    context: int = 0


@dataclass(slots=True)
class Scheduler(Generic[Key]):
    """Rounds of turns: one Decode for all decoding rows, then admissions and chunks of prompts.

    A round is the gap that a running stream sees. What is done in it besides Decode is sized by
    measured time so that the gap stays within `target_gap_s` seconds; one piece of work, of
    MIN_CHUNK tokens at least, is done in every round even where there is no room, so that nobody
    starves. With nobody decoding a chunk may take ALONE_S. Prompts share prefill chunk by chunk:
    the one with the fewest tokens left and the oldest in turn. A request takes `slots` of
    `max_batch` rows; up to `max_queue` wait beyond those that fit into the free ones. clock:
    seconds, monotonic.

    Not thread-safe: every call, from whatever thread, under one lock.
    """

    max_batch: int
    max_queue: int
    target_gap_s: float
    clock: Callable[[], float]
    _line: WaitingLine[Key] = field(default_factory=WaitingLine[Key])
    _active: dict[Key, _Active] = field(default_factory=dict)
    _turn: Turn[Key] | None = None
    _turn_began: float = 0.0
    _rows_stepped: int = 0
    _context_fed: int = 0
    # The round: when it began; whether any work but Decode was done in it, whether a whole chunk
    # was, and whether somebody waits for a first token.
    _round_began: float = 0.0
    _worked: bool = False
    _chunk_done: bool = False
    _decode_due: bool = False
    _admits_in_a_row: int = 0
    _shortest_next: bool = True
    _least_alone: int = MIN_CHUNK_ALONE  # tokens of the smallest chunk while nobody decodes
    _chunks: ChunkSizer = field(default_factory=ChunkSizer)
    _decode_s: DecodeCost = field(default_factory=DecodeCost)
    _admit_s: RecentCost = field(default_factory=RecentCost)
    _slot_seconds: float | None = None  # of a request, from admission to removal, smoothed

    # The queue, for those who submit.

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return len(self._line)

    @property
    def active(self) -> int:
        """Requests admitted and not yet removed."""
        return len(self._active)

    @property
    def slots_used(self) -> int:
        """Rows of the batch that belong to admitted requests."""
        return sum(request.slots for request in self._active.values())

    @property
    def decoding_rows(self) -> int:
        """Rows that the next Decode steps."""
        return sum(r.slots for r in self._active.values() if r.phase is _Phase.DECODING)

    def full(self, slots: int = 1) -> bool:
        """Whether add() would refuse a request of `slots` slots."""
        free = self.max_batch - self.slots_used
        beyond = self._line.beyond(free)
        fits = beyond == 0 and self._line.slots + slots <= free
        return not fits and beyond >= self.max_queue

    def add(self, key: Key, *, tokens: int, slots: int = 1) -> bool:
        """Queues `key` with a prompt of `tokens` tokens; False when the queue is full.

        Raises ValueError when slots is not in 1..max_batch or `key` is here already.
        """
        if not 1 <= slots <= self.max_batch:
            raise ValueError(f"{slots} slots of a batch of {self.max_batch}")
        if key in self._line or key in self._active:
            raise ValueError(f"{key!r} is here already")
        if self.full(slots):
            return False
        self._line.add(key, tokens, slots)
        return True

    def retry_after(self) -> int:
        """Whole seconds (1 to 60) after which a refused request may find a place: the time in
        which half of those waiting are served, by measured durations."""
        per_slot = (1.0 if self._slot_seconds is None else self._slot_seconds) / self.max_batch
        return max(1, min(_MAX_RETRY_S, math.ceil(per_slot * (self.queued + 1) / 2)))

    # What became of requests, from the worker.

    def postpone(self, key: Key) -> bool:
        """`key`, just admitted, lacks memory: it goes back to its place in the queue (the head,
        unless it had overtaken others) and is not admitted again until a request was removed or
        rows were done.

        False when nothing else is active, so that waiting can't help: it's back in the queue all
        the same, and would be admitted again at once; the caller should remove() and fail it.
        """
        request = self._expect(key, _Phase.STARTING)
        del self._active[key]
        others = bool(self._active)
        self._line.put_back(key, request.waiting, blocked=others)
        return others

    def prefilling(self, key: Key, tokens: int, cached: int = 0) -> None:
        """`key`, just admitted, has `tokens` tokens to feed after `cached` ones from the cache."""
        request = self._expect(key, _Phase.STARTING)
        request.phase, request.left, request.context = _Phase.PREFILLING, tokens, cached

    def decoding(self, key: Key, rows: int | None = None) -> None:
        """`key` has its prompt fed; `rows` rows (None: all its slots) decode from now on."""
        request = self._expect(key, _Phase.STARTING, _Phase.PREFILLING)
        rows = request.slots if rows is None else rows
        if not 0 <= rows <= request.slots:
            raise ValueError(f"{rows} rows in {request.slots} slots")
        if not self.decoding_rows:
            self._new_round()
        request.phase, request.slots = _Phase.DECODING, rows
        self._decode_due = True  # its first token doesn't wait for others' prompts

    def rows_done(self, key: Key, rows: int = 1) -> None:
        """`rows` of the rows of `key` are done; their slots are free. It stays until remove()."""
        request = self._expect(key, _Phase.DECODING)
        if not 0 <= rows <= request.slots:
            raise ValueError(f"{rows} of {request.slots} rows done")
        request.slots -= rows
        self._line.retry()

    def remove(self, key: Key) -> None:
        """Forgets `key`, wherever it is: finished, failed or cancelled; unknown is no error."""
        self._line.remove(key)
        request = self._active.pop(key, None)
        if request is not None:
            seconds = (self.clock() - request.began) * request.waiting.slots
            if self._slot_seconds is None:
                self._slot_seconds = seconds
            self._slot_seconds += _SMOOTHING * (seconds - self._slot_seconds)
            self._line.retry()

    # Turns.

    def next(self) -> Turn[Key] | None:
        """The next turn; None when there is nothing to do until add(), or until a request that
        was admitted is answered. Every turn is followed by done()."""
        self._turn = self._choose()
        self._turn_began = self.clock()
        return self._turn

    def done(self, tokens: int = 1) -> None:
        """The turn last given is over. tokens: how many a Prefill really fed; 0 for any turn that
        failed or whose time says nothing."""
        turn, self._turn = self._turn, None
        seconds = self.clock() - self._turn_began
        if isinstance(turn, Decode):
            self._new_round()
        elif isinstance(turn, Prefill):
            self._chunk_done = tokens >= turn.tokens  # a cut one leaves room for another
        if tokens <= 0:
            return
        if isinstance(turn, Decode):
            self._decode_s.add(self._rows_stepped, seconds)
        elif isinstance(turn, Admit):
            self._admit_s.add(seconds)
        elif isinstance(turn, Prefill):
            self._chunks.add(tokens, self._context_fed, seconds)
            if seconds > LONGEST_S:
                self._least_alone = MIN_CHUNK
            elif tokens >= MIN_CHUNK and seconds * MIN_CHUNK_ALONE < LONGEST_S * tokens:
                self._least_alone = MIN_CHUNK_ALONE
            request = self._active.get(turn.key)
            if request is not None:
                request.context += tokens
                request.left = max(0, request.left - tokens)

    def check(self) -> None:
        """Raises AssertionError where slots or the queue don't add up. Between turns only."""
        used = self.slots_used
        insist(0 <= used <= self.max_batch, f"{used} slots of {self.max_batch}")
        for key, request in self._active.items():
            insist(key not in self._line, f"{key!r} is admitted and waits")
            taken, asked = request.slots, request.waiting.slots
            decodes = request.phase is _Phase.DECODING
            insist(taken == asked or (decodes and 0 <= taken < asked), f"{key!r}: {taken} slots")
        insist(self.queued <= self.max_queue + self.max_batch, f"{self.queued} wait")
        insist(self.active > 0 or not self._line.any_blocked(), "nobody is left to wait for")
        self._line.check()

    def _choose(self) -> Turn[Key] | None:
        rows = self.decoding_rows
        if not rows:
            return self._work(ALONE_S, rows)
        spent = self.clock() - self._round_began
        room = _OF_GAP * self.target_gap_s - spent - self._decode_s.seconds(rows)
        work = self._work(room, rows)
        if work is not None:
            self._worked = True
            return work
        self._rows_stepped = rows
        return Decode()

    def _work(self, room: float, rows: int) -> Turn[Key] | None:
        """An admission or a chunk that takes at most `room` seconds beside `rows` decoding rows,
        or longer when nothing was done in this round or nobody decodes; None when there's none."""
        must = not rows or not (self._worked or self._decode_due)
        key = self._line.choose(self.max_batch - self.slots_used)
        prompt = self._next_prompt()
        # Many newcomers in a row, each gone at once, must not keep a prompt from its turn.
        prompt_first = prompt is not None and self._admits_in_a_row >= self.max_batch
        if key is not None and not prompt_first and (must or (self._admit_s.value or 0.0) <= room):
            self._admits_in_a_row += 1
            waiting = self._line.take(key)
            self._active[key] = _Active(waiting, waiting.slots, began=self.clock())
            return Admit(key)
        if prompt is None or (rows and (self._chunk_done or self._decode_due)):
            return None
        tokens = self._chunk(self._active[prompt], room, rows, must=must)
        if not tokens:
            return None
        self._admits_in_a_row = 0
        self._shortest_next = not self._shortest_next
        self._context_fed = self._active[prompt].context
        return Prefill(prompt, tokens)

    def _next_prompt(self) -> Key | None:
        """Whose chunk comes next. The oldest has every second one, so each becomes the oldest
        and comes to its end; the one with the fewest tokens left is soon out of the way."""
        prompts = [key for key, r in self._active.items() if r.phase is _Phase.PREFILLING]
        if not prompts:
            return None
        if self._shortest_next:
            return min(prompts, key=lambda key: self._active[key].left)
        return prompts[0]

    def _chunk(self, request: _Active, room: float, rows: int, *, must: bool) -> int:
        """Tokens of the next chunk; 0 when none fits and none is due."""
        size = self._chunks.fitting(room, request.context)
        if rows and size >= request.left:  # its rows will be in the step that ends this round
            joined = self._decode_s.seconds(rows + request.slots)
            room -= max(0.0, joined - self._decode_s.seconds(rows))
            size = self._chunks.fitting(room, request.context)
        if must:
            size = max(size, MIN_CHUNK if rows else self._least_alone)
        return min(size, request.left or size)

    def _expect(self, key: Key, *phases: _Phase) -> _Active:
        request = self._active.get(key)
        if request is None or request.phase not in phases:
            state = "not admitted" if request is None else request.phase.value
            raise ValueError(f"{key!r} is {state}")
        return request

    def _new_round(self) -> None:
        self._round_began = self.clock()
        self._worked = self._chunk_done = self._decode_due = False
