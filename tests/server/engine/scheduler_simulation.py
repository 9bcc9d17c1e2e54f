"""A worker in simulation: drives the scheduler with clients, costs and a clock of its own.

Time passes only by what turns cost. Every rule that must hold at every moment is asserted here, by
the simulation's own books, never by the scheduler's; what a test wants to see beyond that it reads
from the run afterwards.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

from server.engine.admission import MAX_OVERTAKEN
from server.engine.chunk_size import MAX_CHUNK, MIN_CHUNK
from server.engine.scheduler import (
    LONGEST_S,
    MIN_CHUNK_ALONE,
    Admit,
    Decode,
    Prefill,
    Scheduler,
    Turn,
)

# A prompt that waits for its next chunk sees at most so many turns of other kinds.
_CHUNKS_APART = 2
# Turns that may come before the admission of somebody who fits.
_PATIENCE = 6
# Chunks measured before gaps are held against the scheduler.
SETTLED = 4


@dataclass
class Device:
    """What turns cost, in seconds. noise: every figure varies by up to this part of it either way;
    after `slows_at` seconds everything costs `slows_by` times as much."""

    token_s: float = 0.0005
    context_s: float = 0.0  # per token and token of context
    chunk_s: float = 0.0  # per chunk
    experts_s: float = 0.0  # reading all experts: a chunk reads more of them the more tokens it has
    step_s: float = 0.007
    row_s: float = 0.001
    admit_s: float = 0.0005
    noise: float = 0.0
    slows_at: float = float("inf")
    slows_by: float = 1.0

    def chunk(self, tokens: int, context: int) -> float:
        per_token = self.token_s + self.context_s * (context + tokens / 2)
        experts = self.experts_s * (1 - 0.97**tokens)
        return self.chunk_s + experts + tokens * per_token

    def step(self, rows: int) -> float:
        return self.step_s + self.row_s * rows


@dataclass
class Client:
    """A request. answers: tokens of each choice; cached: how much of the prompt the cache has;
    arrives, leaves: seconds; memory: what it needs of the simulation's."""

    name: str
    prompt: int
    answers: tuple[int, ...] = (10,)
    arrives: float = 0.0
    leaves: float | None = None
    cached: int = 0
    memory: int = 0
    fed: int = 0
    left: list[int] = field(default_factory=list)
    token_times: list[float] = field(default_factory=list)
    admitted_at: float | None = None
    finished_at: float | None = None
    fate: str = "coming"  # then waiting, starting, prefilling, decoding; finished, refused, ...

    @property
    def first_token_s(self) -> float:
        return self.token_times[0] - self.arrives

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.token_times)]


@dataclass
class Gap:
    """Between the ends of two steps with rows decoding all the while: its length, that of its last
    step, and the cost of the least piece of work that could be done in it. settled: a step of as
    many rows and a few chunks were measured before it."""

    at: float
    seconds: float
    step: float
    least: float
    pieces: int
    settled: bool


@dataclass
class LoneChunk:
    """A chunk while nobody decoded: its seconds, and those of the least chunk there."""

    seconds: float
    least: float
    settled: bool


ENDED = frozenset({"finished", "refused", "cancelled", "out of memory"})


class Simulation:
    """Runs clients to their ends."""

    def __init__(
        self,
        clients: list[Client],
        device: Device | None = None,
        *,
        max_batch: int = 4,
        max_queue: int = 100,
        target_gap_s: float = 0.120,
        memory: int = 0,
        seed: int = 0,
    ) -> None:
        self.device = device or Device()
        self.clients = {client.name: client for client in clients}
        self.memory = memory
        self.now = 0.0
        self.scheduler: Scheduler[str] = Scheduler(
            max_batch=max_batch,
            max_queue=max_queue,
            target_gap_s=target_gap_s,
            clock=lambda: self.now,
        )
        self.turns: list[Turn[str]] = []
        self.gaps: list[Gap] = []
        self.chunks: list[tuple[float, int, float]] = []  # at, tokens, seconds
        self.alone: list[LoneChunk] = []
        self._random = random.Random(seed)
        self._coming = sorted(clients, key=lambda client: client.arrives)
        self._leaving = sorted(
            (client for client in clients if client.leaves is not None),
            key=lambda client: client.leaves or 0.0,
        )
        self._line: list[Client] = []  # by arrival, as the scheduler's should be
        self._active: list[Client] = []  # by admission
        self._overtaken: dict[str, int] = {}
        # Admitted for the first time: how many so far, and how many may be before each client is.
        self._admissions = 0
        self._latest: dict[str, int] = {}
        self._removals = 0
        self._postponed_at: dict[str, int] = {}
        self._since_oldest = self._steps_since_chunk = self._passed_over = 0
        self._gap_began: float | None = None
        self._gap_least = 0.0
        self._pieces = self._gap_chunks = 0
        self._rows_seen: dict[int, int] = {}
        self._measured = 0
        self._slow = self._slow_chunks = False

    def run(self) -> Simulation:
        while self._step():
            self.scheduler.check()
        assert self.scheduler.active == self.scheduler.queued == self.scheduler.slots_used == 0
        assert all(client.fate in ENDED for client in self.clients.values()), "starved"
        return self

    def _step(self) -> bool:
        """Arrivals and departures up to now, then one turn; False at the end of everything."""
        self._arrive()
        self._leave()
        turn = self.scheduler.next()
        if turn is None:
            assert not self._active, "idle with work to do"
            assert not self._line, "idle while somebody waits"
            if not self._coming:
                return False
            self.now = max(self.now, self._coming[0].arrives)
            return True
        self.turns.append(turn)
        self._check_patience(turn)
        if isinstance(turn, Admit):
            self._admit(self.clients[turn.key])
        elif isinstance(turn, Prefill):
            self._prefill(self.clients[turn.key], turn.tokens)
        else:
            self._decode()
        return True

    # Coming and going.

    def _arrive(self) -> None:
        while self._coming and self._coming[0].arrives <= self.now:
            client = self._coming.pop(0)
            slots = len(client.answers)
            full = self.scheduler.full(slots)
            assert self.scheduler.add(client.name, tokens=client.prompt, slots=slots) != full
            if full:
                client.fate = "refused"
                assert len(self._line) >= self.scheduler.max_queue, "refused with room to wait"
                assert 1 <= self.scheduler.retry_after() <= 60
            else:
                client.fate = "waiting"
                self._latest[client.name] = self._admissions + len(self._line) + MAX_OVERTAKEN
                self._line.append(client)
            assert self.scheduler.queued == len(self._line)

    def _leave(self) -> None:
        while self._leaving and (self._leaving[0].leaves or 0.0) <= self.now:
            client = self._leaving.pop(0)
            if client.fate not in ENDED and client.fate != "coming":
                self._end(client, "cancelled")

    def _end(self, client: Client, fate: str) -> None:
        self.scheduler.remove(client.name)
        client.fate = fate
        if client in self._line:
            self._line.remove(client)
        if client in self._active:
            self._active.remove(client)
            self._removals += 1
        if not self._rows():
            self._gap_began = None

    # Turns.

    def _admit(self, client: Client) -> None:
        assert client.fate == "waiting"
        before = self._line[: self._line.index(client)]
        for other in before:
            self._overtaken[other.name] = self._overtaken.get(other.name, 0) + 1
            assert self._overtaken[other.name] <= MAX_OVERTAKEN
        postponed_at = self._postponed_at.pop(client.name, None)
        assert postponed_at != self._removals, "tried again though nothing was freed"
        if client.admitted_at is None:
            assert self._admissions <= self._latest[client.name], "waited too long"
            self._admissions += 1
            client.admitted_at = self.now
        self._line.remove(client)
        client.fate = "starting"
        self._spend(self.device.admit_s)
        self._least(self.device.admit_s)
        used = sum(other.memory for other in self._active)
        if used + client.memory > self.memory:
            self._postpone(client)
            self.scheduler.done()
            return
        self._active.append(client)
        assert self._slots() <= self.scheduler.max_batch
        client.fed, client.left = client.cached, list(client.answers)
        if client.fed == client.prompt:
            self._start_decoding(client)
        else:
            client.fate = "prefilling"
            self.scheduler.prefilling(client.name, client.prompt - client.fed, client.cached)
        self.scheduler.done()

    def _postpone(self, client: Client) -> None:
        if self.scheduler.postpone(client.name):
            assert self._active
            self._postponed_at[client.name] = self._removals
            client.fate = "waiting"
            # It is back at its place by arrival.
            self._line.append(client)
            self._line.sort(key=lambda other: (other.arrives, list(self.clients).index(other.name)))
        else:
            assert not self._active
            self._end(client, "out of memory")

    def _prefill(self, client: Client, tokens: int) -> None:
        assert client.fate == "prefilling"
        assert 1 <= tokens <= min(MAX_CHUNK, client.prompt - client.fed)
        rows = self._rows()
        if tokens < client.prompt - client.fed:
            least = MIN_CHUNK if rows or self._slow_chunks else MIN_CHUNK_ALONE
            assert tokens >= least
        self._least(self.device.chunk(MIN_CHUNK, client.fed))
        seconds = self._spend(self.device.chunk(tokens, client.fed))
        self.chunks.append((self.now, tokens, seconds))
        self._slow_chunks = self._slow_chunks or seconds > LONGEST_S
        self._gap_chunks += 1
        self._measured += 1
        if not rows:
            least = self.device.chunk(MIN_CHUNK_ALONE, client.fed) * self._slowdown()
            self.alone.append(LoneChunk(seconds, least, settled=self._measured > SETTLED))
        client.fed += tokens
        if client.fed == client.prompt:
            self._start_decoding(client)
        self.scheduler.done(tokens)

    def _start_decoding(self, client: Client) -> None:
        if not self._rows():
            self._new_gap()
        client.fate = "decoding"
        self.scheduler.decoding(client.name, rows=len(client.left))

    def _decode(self) -> None:
        rows = self._rows()
        assert rows > 0, "a step without rows"
        assert rows == self.scheduler.decoding_rows
        seconds = self._spend(self.device.step(rows))
        self._close_gap(rows, seconds)
        for client in [other for other in self._active if other.fate == "decoding"]:
            client.token_times.append(self.now)
            before = len(client.left)
            client.left = [tokens - 1 for tokens in client.left if tokens > 1]
            if not client.left:
                client.finished_at = self.now
                self._end(client, "finished")
            elif len(client.left) < before:
                self.scheduler.rows_done(client.name, before - len(client.left))
                self._removals += 1
        self.scheduler.done()

    # Rules.

    def _check_patience(self, turn: Turn[str]) -> None:
        """Nobody who could go on is passed over for long."""
        prompts = [client for client in self._active if client.fate == "prefilling"]
        if isinstance(turn, Prefill):
            self._since_oldest = 0 if turn.key == prompts[0].name else self._since_oldest + 1
            assert self._since_oldest < _CHUNKS_APART, "the oldest prompt is passed over"
            self._steps_since_chunk = 0
        elif isinstance(turn, Decode) and prompts:
            self._steps_since_chunk += 1
            assert self._steps_since_chunk <= self.scheduler.max_batch + 2, "no chunk for long"
        if not prompts:
            self._steps_since_chunk = 0
        if isinstance(turn, Admit) or not self._somebody_fits():
            self._passed_over = 0
        else:
            self._passed_over += 1
            assert self._passed_over <= _PATIENCE, "slots are free and somebody fits"

    def _somebody_fits(self) -> bool:
        """Whether the head of the line could be admitted at once."""
        if not self._line:
            return False
        head = self._line[0]
        tried = self._postponed_at.get(head.name) == self._removals
        return not tried and len(head.answers) <= self.scheduler.max_batch - self._slots()

    def _close_gap(self, rows: int, step: float) -> None:
        """At the end of a step: the gap that the streams saw."""
        assert self._gap_began is not None
        seen = self._rows_seen.get(rows, 0)
        self._rows_seen[rows] = seen + 1
        self.gaps.append(
            Gap(
                self.now,
                self.now - self._gap_began,
                step,
                self._gap_least,
                self._pieces,
                settled=seen >= 1 and self._measured - self._gap_chunks >= SETTLED,
            )
        )
        self._new_gap()

    def _new_gap(self) -> None:
        self._gap_began, self._gap_least = self.now, 0.0
        self._pieces = self._gap_chunks = 0

    def _least(self, seconds: float) -> None:
        self._gap_least = max(self._gap_least, seconds * self._slowdown())
        self._pieces += 1

    def _spend(self, seconds: float) -> float:
        noise = self.device.noise
        seconds *= self._slowdown() * self._random.uniform(1 - noise, 1 + noise)
        self.now += seconds
        return seconds

    def _slowdown(self) -> float:
        if self.now < self.device.slows_at:
            return 1.0
        if not self._slow:
            self._slow = True
            self._rows_seen.clear()
            self._measured = 0
        return self.device.slows_by

    def _rows(self) -> int:
        return sum(len(client.left) for client in self._active if client.fate == "decoding")

    def _slots(self) -> int:
        return sum(
            len(client.left) if client.fate == "decoding" else len(client.answers)
            for client in self._active
        )
