"""The scheduler in simulation: an injected clock, costs for each turn, what must always hold."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.scheduler import (
    ALONE_S,
    MIN_CHUNK,
    MIN_CHUNK_ALONE,
    Admit,
    Prefill,
    Scheduler,
    Step,
)

TOKEN_S = 0.0005
STEP_S = 0.008
GAP_S = 0.120


@dataclass
class Client:
    name: str
    prompt: int
    answer: int
    arrives: float = 0.0
    leaves: float | None = None
    fed: int = 0
    step_times: list[float] = field(default_factory=list)
    finished_at: float | None = None


class Simulation:
    """Runs clients against the scheduler; time passes only by what turns cost."""

    def __init__(
        self,
        clients: list[Client],
        *,
        max_active: int = 4,
        max_queue: int = 100,
        token_s: float = TOKEN_S,
    ) -> None:
        self.token_s = token_s
        self.now = 0.0
        self.clients = {client.name: client for client in clients}
        self.scheduler: Scheduler[str] = Scheduler(
            max_active=max_active, max_queue=max_queue, target_gap_s=GAP_S, clock=lambda: self.now
        )
        self.refused: list[str] = []
        self.turns: list[object] = []

    def run(self) -> "Simulation":
        coming = sorted(self.clients.values(), key=lambda client: client.arrives)
        left: set[str] = set()
        while True:
            while coming and coming[0].arrives <= self.now:
                name = coming.pop(0).name
                if not self.scheduler.add(name):
                    self.refused.append(name)
            for client in self.clients.values():
                gone = client.leaves is not None and client.leaves <= self.now
                if gone and client.name not in left:
                    left.add(client.name)
                    self.scheduler.remove(client.name)
            turn = self.scheduler.next()
            if turn is None:
                assert self.scheduler.active == 0 or all(
                    name in left for name in self.clients if name in self.scheduler._admitted
                )
                assert self.scheduler.queued == 0
                if not coming:
                    return self
                self.now = max(self.now, coming[0].arrives)
                continue
            self.turns.append(turn)
            self.work(turn)

    def work(self, turn: object) -> None:
        fed = 1
        if isinstance(turn, Admit):
            client = self.clients[turn.key]
            if client.prompt:
                self.scheduler.prefilling(client.name)
            else:
                self.scheduler.decoding(client.name)
        elif isinstance(turn, Prefill):
            client = self.clients[turn.key]
            fed = min(turn.tokens, client.prompt - client.fed)
            client.fed += fed
            self.now += fed * self.token_s
            if client.fed == client.prompt:
                self.scheduler.decoding(client.name)
        elif isinstance(turn, Step):
            client = self.clients[turn.key]
            assert client.fed == client.prompt
            self.now += STEP_S
            client.step_times.append(self.now)
            if len(client.step_times) == client.answer:
                client.finished_at = self.now
                self.scheduler.remove(client.name)
        self.scheduler.done(fed)


def gaps(client: Client) -> list[float]:
    times = client.step_times
    return [after - before for before, after in pairwise(times)]


def test_a_lone_prompt_comes_in_large_chunks():
    run = Simulation([Client("a", prompt=10_000, answer=3)]).run()
    chunks = [turn.tokens for turn in run.turns if isinstance(turn, Prefill)]
    assert min(chunks) >= 512
    assert max(chunks) <= 2048


def test_a_long_prompt_does_not_stretch_the_gap_of_a_running_stream():
    chat = Client("chat", prompt=100, answer=600)
    run = Simulation([chat, Client("long", prompt=30_000, answer=1, arrives=0.5)]).run()
    assert run.clients["long"].finished_at is not None
    settled = gaps(chat)[20:]
    assert max(settled) <= GAP_S * 1.05
    assert max(settled) > GAP_S * 0.8, "the chunks use the room there is"


def test_on_a_slow_device_a_newcomer_does_not_wait_long_for_a_lone_prompt():
    run = Simulation([Client("long", prompt=20_000, answer=1)], token_s=0.002).run()
    chunks = [turn.tokens for turn in run.turns if isinstance(turn, Prefill)]
    assert max(chunks[1:]) * 0.002 <= ALONE_S
    run = Simulation([Client("long", prompt=2_000, answer=1)], token_s=0.1).run()
    chunks = [turn.tokens for turn in run.turns if isinstance(turn, Prefill)]
    assert chunks[1:] == [MIN_CHUNK_ALONE] * len(chunks[1:])


def test_streams_take_turns_evenly():
    clients = [Client(name, prompt=10, answer=100) for name in "abcd"]
    run = Simulation(clients).run()
    ends = [client.finished_at or 0.0 for client in run.clients.values()]
    assert max(ends) - min(ends) <= 8 * STEP_S


def test_a_short_prompt_is_not_stuck_behind_a_long_one():
    short = Client("short", prompt=200, answer=5, arrives=1.0)
    run = Simulation([Client("long", prompt=100_000, answer=5), short]).run()
    assert short.finished_at is not None
    assert short.finished_at < 3.5
    assert (run.clients["long"].finished_at or 0) > 40


def test_the_queue_is_bounded_and_first_come_first_served():
    clients = [Client(f"c{i:02}", prompt=10, answer=5) for i in range(20)]
    run = Simulation(clients, max_active=2, max_queue=8).run()
    assert run.refused == [f"c{i:02}" for i in range(10, 20)]
    admitted = [turn.key for turn in run.turns if isinstance(turn, Admit)]
    assert admitted == [f"c{i:02}" for i in range(10)]


def test_retry_after_grows_with_the_queue_and_stays_sane():
    scheduler: Scheduler[int] = Scheduler(2, 1000, GAP_S, clock=lambda: 0.0)
    empty = scheduler.retry_after()
    for key in range(500):
        scheduler.add(key)
    assert 1 <= empty < scheduler.retry_after() <= 60


clients_strategy = st.lists(
    st.builds(
        lambda prompt, answer, arrives, leaves: (prompt, answer, arrives, leaves),
        st.one_of(st.integers(0, 300), st.integers(300, 20_000)),
        st.integers(1, 80),
        st.floats(0, 10),
        st.one_of(st.none(), st.floats(0, 15)),
    ),
    min_size=1,
    max_size=12,
)


@given(clients_strategy, st.integers(1, 5), st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_any_run_ends_with_everyone_served_within_bounds(
    drawn: list[tuple[int, int, float, float | None]], max_active: int, max_queue: int
):
    clients = [
        Client(f"c{i}", prompt, answer, arrives, None if leaves is None else max(leaves, arrives))
        for i, (prompt, answer, arrives, leaves) in enumerate(drawn)
    ]
    run = Simulation(clients, max_active=max_active, max_queue=max_queue).run()
    for client in clients:
        if client.name not in run.refused and client.leaves is None:
            assert client.finished_at is not None, "starved"
    # A round is one step each and one chunk, bounded even when the cost of a token is not known.
    worst = max_active * STEP_S + max(GAP_S, ALONE_S, MIN_CHUNK * TOKEN_S) + STEP_S
    for client in clients:
        assert max(gaps(client), default=0.0) <= worst
    assert run.scheduler.active == run.scheduler.queued == 0
