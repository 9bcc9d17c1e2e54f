"""The prompt cache against a naive model: exact prefixes, exact accounts, a hard budget."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.engine.prompt_cache import PromptCache

TOKEN_BYTES = 10
SNAPSHOT_BYTES = 70


@dataclass(frozen=True)
class Span:
    tokens: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return TOKEN_BYTES * len(self.tokens)


@dataclass(frozen=True)
class Snapshot:
    """The state after `tokens`: comparing it shows whether the right one came back."""

    tokens: tuple[int, ...]

    @property
    def position(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return SNAPSHOT_BYTES


def insert(cache: PromptCache, tokens: list[int]) -> bool:
    start = cache.anchor(tokens, len(tokens))
    span = Span(tuple(tokens[start:])) if start < len(tokens) else None
    return cache.insert(tokens, start, span, Snapshot(tuple(tokens)))


def reused(cache: PromptCache, tokens: list[int]) -> list[int]:
    hit = cache.lookup(tokens)
    if hit is None:
        return []
    covered = [token for span in hit.spans for token in span.tokens]  # type: ignore[attr-defined]
    assert covered == list(hit.snapshot.tokens) == tokens[: hit.length]  # type: ignore[attr-defined]
    assert hit.length < len(tokens)
    return covered


def test_the_longest_strict_prefix_is_reused():
    cache = PromptCache(10_000)
    assert insert(cache, [1, 2])
    assert insert(cache, [1, 2, 3, 4])
    assert reused(cache, [1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    assert reused(cache, [1, 2, 3, 4]) == [1, 2], "the last token has to be computed"
    assert reused(cache, [1, 2, 9]) == [1, 2]
    assert reused(cache, [1, 9]) == []
    assert reused(cache, [1]) == []


def test_a_span_is_stored_once_for_all_that_continue_it():
    cache = PromptCache(10_000)
    head = list(range(50))
    insert(cache, head)
    insert(cache, [*head, 101])
    insert(cache, [*head, 102])
    assert cache.nbytes == 52 * TOKEN_BYTES + 3 * SNAPSHOT_BYTES
    assert cache.entries == 3


def test_siblings_may_begin_alike():
    cache = PromptCache(10_000)
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 5])
    assert reused(cache, [1, 2, 3, 4, 0]) == [1, 2, 3, 4]
    assert reused(cache, [1, 2, 5, 0]) == [1, 2, 5]


def test_the_least_recently_used_leaf_goes_first():
    each = 4 * TOKEN_BYTES + SNAPSHOT_BYTES
    cache = PromptCache(3 * each)
    for first in (10, 20, 30):
        insert(cache, [first, 1, 2, 3])
    reused(cache, [10, 1, 2, 3, 4])
    insert(cache, [40, 1, 2, 3])
    assert reused(cache, [20, 1, 2, 3, 4]) == []
    assert [reused(cache, [f, 1, 2, 3, 4]) != [] for f in (10, 30, 40)] == [True] * 3


def test_an_unused_inner_snapshot_goes_before_the_leaf_it_leads_to():
    cache = PromptCache(6 * TOKEN_BYTES + 2 * SNAPSHOT_BYTES)
    insert(cache, [1, 2])
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 3, 4, 5, 6])
    assert reused(cache, [1, 2, 0]) == [], "thinned"
    assert reused(cache, [1, 2, 3, 4, 5, 6, 7]) == [1, 2, 3, 4, 5, 6]
    assert reused(cache, [1, 2, 3, 4, 0]) == [1, 2, 3, 4]
    cache.check()


def test_a_thinned_snapshot_can_come_back():
    cache = PromptCache(6 * TOKEN_BYTES + 2 * SNAPSHOT_BYTES)
    insert(cache, [1, 2])
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 3, 4, 5, 6])
    assert insert(cache, [1, 2])
    assert reused(cache, [1, 2, 0]) == [1, 2]
    cache.check()


def test_what_can_never_fit_pushes_nothing_out():
    cache = PromptCache(2 * TOKEN_BYTES + SNAPSHOT_BYTES)
    assert insert(cache, [1, 2])
    assert not insert(cache, [7, 8, 9])
    assert not insert(cache, [1, 2, 3])
    assert reused(cache, [1, 2, 3]) == [1, 2]


def test_a_budget_of_nothing_holds_nothing():
    cache = PromptCache(0)
    assert not insert(cache, [1, 2])
    assert (cache.nbytes, cache.entries) == (0, 0)


def test_clear_empties():
    cache = PromptCache(10_000)
    insert(cache, [1, 2])
    cache.clear()
    assert reused(cache, [1, 2, 3]) == []
    assert (cache.nbytes, cache.entries) == (0, 0)
    insert(cache, [1, 2])
    cache.check()


def test_a_span_or_snapshot_of_other_tokens_is_refused():
    cache = PromptCache(10_000)
    with pytest.raises(ValueError, match="snapshot at 1"):
        cache.insert([1, 2], 0, Span((1, 2)), Snapshot((1,)))
    with pytest.raises(ValueError, match="span must hold"):
        cache.insert([1, 2], 0, Span((1,)), Snapshot((1, 2)))
    with pytest.raises(ValueError, match="nothing ends at token 1"):
        cache.insert([1, 2], 1, Span((2,)), Snapshot((1, 2)))


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=7)


class AgainstNaive(RuleBasedStateMachine):
    """The naive model is the set of sequences ever inserted, and how recently each was used."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = 700
        self.cache = PromptCache(self.budget)
        self.inserted: set[tuple[int, ...]] = set()

    @rule(tokens=sequences)
    def keep(self, tokens: list[int]) -> None:
        held = insert(self.cache, tokens)
        if held:
            self.inserted.add(tuple(tokens))
            assert reused(self.cache, [*tokens, 9]) == tokens, "what was just kept is there"

    @rule(tokens=sequences)
    def reuse(self, tokens: list[int]) -> None:
        found = tuple(reused(self.cache, tokens))
        prefixes = [p for p in self.inserted if p == tuple(tokens[: len(p)]) and p != tuple(tokens)]
        assert found == () or found in self.inserted
        assert len(found) <= max(map(len, prefixes), default=0)
        # Whatever is longer than what was found was evicted; it can only come back by keep().
        self.inserted -= {p for p in prefixes if len(p) > len(found)}

    @rule(tokens=sequences)
    def anchors_are_prefixes(self, tokens: list[int]) -> None:
        anchor = self.cache.anchor(tokens, len(tokens))
        assert 0 <= anchor <= len(tokens)
        assert anchor >= len(reused(self.cache, tokens))

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.inserted.clear()

    @invariant()
    def accounts_agree(self) -> None:
        self.cache.check()
        assert self.cache.nbytes <= self.budget


class Unbounded(AgainstNaive):
    """With room for everything the cache is exactly the naive set."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = 10**9
        self.cache = PromptCache(self.budget)

    @rule(tokens=sequences)
    def exactly_the_longest(self, tokens: list[int]) -> None:
        prefixes = [p for p in self.inserted if p == tuple(tokens[: len(p)]) and p != tuple(tokens)]
        assert len(reused(self.cache, tokens)) == max(map(len, prefixes), default=0)


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestUnbounded = Unbounded.TestCase
TestUnbounded.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
