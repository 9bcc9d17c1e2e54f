"""What the prompt cache gives up first, by simulation of whole workloads."""

import random
import tracemalloc

import pytest

from server.engine.prefix_tree import NODE_BYTES, TOKEN
from server.engine.prompt_cache import PromptCache

KV = 20_480  # bytes a token, as the 35B's
STATE = 64_400_000


class Span:
    def __init__(self, length: int) -> None:
        self.length = length
        self.nbytes = length * KV


class Snapshot:
    nbytes = STATE

    def __init__(self, position: int) -> None:
        self.position = position


class Conversation:
    """Turns of one client: each sends what was there and some more, and caches as the engine does:
    the end of the system prompt, the end of the messages, the end of the answer."""

    def __init__(self, cache: PromptCache, seed: int, head: int, head_seed: int | None = None):
        self.cache = cache
        self.random = random.Random(seed)
        heads = self.random if head_seed is None else random.Random(head_seed)
        self.tokens = [heads.randrange(200_000) for _ in range(head)]
        self.head = head
        self.ends: list[int] = []

    def turn(self, message: int, answer: int) -> int:
        """Returns how many tokens of the history were not reused."""
        history = len(self.tokens) if self.ends else 0
        self._extend(message)
        hit = self.cache.lookup(self.tokens)
        reused = hit.length if hit else 0
        self.save(self.head)
        self.save(len(self.tokens))
        self._extend(answer)
        self.save(len(self.tokens))
        self.ends.append(len(self.tokens))
        self.cache.check()
        return max(history - reused, 0)

    def save(self, end: int) -> None:
        tokens = self.tokens[:end]
        start = self.cache.anchor(tokens, end)
        self.cache.insert(tokens, start, Span(end - start) if start < end else None, Snapshot(end))

    def reusable(self, end: int) -> int:
        hit = self.cache.lookup([*self.tokens[:end], 0])
        return hit.length if hit else 0

    def _extend(self, count: int) -> None:
        self.tokens += [self.random.randrange(200_000) for _ in range(count)]


@pytest.mark.parametrize("shared_head", [None, 7])
def test_one_off_requests_do_not_evict_the_main_session(shared_head: int | None):
    """A session of 30,000 tokens used at every tenth request; the budget holds it and a few of the
    hundreds of short prompts between its turns."""
    cache = PromptCache(30_000 * KV + 16 * STATE)
    main = Conversation(cache, seed=1, head=10_000)
    main.turn(message=15_000, answer=1_000)
    main.turn(message=1_000, answer=1_000)
    for request in range(400):
        if request % 10 == 9:
            assert main.turn(message=20, answer=30) == 0, request
        else:
            other = Conversation(cache, 1_000 + request, head=150, head_seed=shared_head)
            other.turn(message=100, answer=20)
    assert main.reusable(10_000) == 10_000, "a new session with its system prompt finds it"


def test_a_session_nobody_came_back_to_goes_in_the_end():
    cache = PromptCache(30 * STATE + 30_000 * KV)
    old = Conversation(cache, seed=1, head=10_000)
    for _ in range(5):
        old.turn(message=500, answer=500)
    for seed in range(2, 400):
        Conversation(cache, seed, head=200).turn(message=100, answer=20)
    assert old.reusable(len(old.tokens)) == 0


def test_thinning_keeps_a_snapshot_near_every_edit():
    """40 turns with room for 20 states: whatever message is edited, what has to be fed again is at
    most as much as what follows it; the head and the newest turns are whole."""
    cache = PromptCache(20 * STATE + 45_000 * KV)
    session = Conversation(cache, seed=3, head=5_000)
    for _ in range(40):
        assert session.turn(message=400, answer=400) == 0
    total = len(session.tokens)
    assert session.reusable(5_000) == 5_000
    assert session.reusable(total) == total
    assert session.reusable(session.ends[-2]) == session.ends[-2]
    for end in session.ends:
        assert end - session.reusable(end) <= max(total - end, 0), end
    cache.check()


def test_thinning_comes_before_whole_conversations():
    cache = PromptCache(40 * STATE + 60_000 * KV)
    sessions = [Conversation(cache, seed, head=1_000) for seed in range(4)]
    for _ in range(20):
        for session in sessions:
            assert session.turn(message=100, answer=100) == 0
    for session in sessions:
        assert session.reusable(len(session.tokens)) == len(session.tokens)
        assert session.reusable(1_000) == 1_000


def test_interleaved_sessions_share_their_head():
    cache = PromptCache(200 * STATE + 64 * 3_000 * KV)
    sessions = [Conversation(cache, seed, head=10_000, head_seed=5) for seed in range(64)]
    fed_again = sum(session.turn(message=100, answer=100) for _ in range(5) for session in sessions)
    assert fed_again == 0


def test_a_path_longer_than_the_budget_keeps_what_fits():
    cache = PromptCache(10_000 * KV + 4 * STATE)
    session = Conversation(cache, seed=1, head=2_000)
    for _ in range(30):
        session.turn(message=300, answer=300)
    assert 2_000 <= session.reusable(len(session.tokens)) < len(session.tokens)
    cache.check()


def test_the_index_is_counted_for_what_it_is():
    """The estimate is not below what Python really takes, nor twice as much."""

    class Light:
        nbytes = 0

        def __init__(self, count: int) -> None:
            self.length = self.position = count

    generator = random.Random(1)
    cache = PromptCache(1 << 40)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1_000):
            first = [1, *(generator.randrange(200_000) for _ in range(300))]
            for tokens in (first, [*first, *first]):
                start = cache.anchor(tokens, len(tokens))
                cache.insert(tokens, start, Light(len(tokens) - start), Light(len(tokens)))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.nbytes == 2_000 * NODE_BYTES + 1_000 * 602 * TOKEN
    assert taken <= cache.nbytes <= 2 * taken
