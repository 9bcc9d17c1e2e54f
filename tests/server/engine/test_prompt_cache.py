"""The prompt cache against a naive model: exact prefixes, exact accounts, a hard budget."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.engine.prefix_tree import NODE_BYTES, TOKEN
from server.engine.prompt_cache import PromptCache

TOKEN_BYTES = 10_000
SNAPSHOT_BYTES = 70_000
EACH_TOKEN = TOKEN_BYTES + TOKEN  # with its id in the index
EACH_NODE = SNAPSHOT_BYTES + NODE_BYTES


class Span:
    """Keys and values of `tokens`; the tenant shows whose they are."""

    def __init__(self, tokens: tuple[int, ...], tenant: str = "") -> None:
        self.tokens = tokens
        self.tenant = tenant
        self.length = len(tokens)
        self.nbytes = TOKEN_BYTES * len(tokens)


class Snapshot:
    """The state after `tokens`: comparing it shows whether the right one came back."""

    def __init__(self, tokens: tuple[int, ...], tenant: str = "") -> None:
        self.tokens = tokens
        self.tenant = tenant
        self.position = len(tokens)
        self.nbytes = SNAPSHOT_BYTES


def insert(cache: PromptCache, tokens: list[int], tenant: str = "") -> bool:
    start = cache.anchor(tokens, len(tokens), tenant)
    span = Span(tuple(tokens[start:]), tenant) if start < len(tokens) else None
    return cache.insert(tokens, start, span, Snapshot(tuple(tokens), tenant), tenant)


def reused(cache: PromptCache, tokens: list[int], tenant: str = "") -> list[int]:
    hit = cache.lookup(tokens, tenant)
    if hit is None:
        return []
    state: Snapshot = hit.snapshot  # type: ignore[assignment]
    spans: list[Span] = list(hit.spans)  # type: ignore[arg-type]
    covered = [token for span in spans for token in span.tokens]
    assert covered == list(state.tokens) == tokens[: hit.length]
    assert {span.tenant for span in spans} == {state.tenant} == {tenant}
    assert hit.length < len(tokens)
    return covered


def test_the_longest_strict_prefix_is_reused():
    cache = PromptCache(10**8)
    assert insert(cache, [1, 2])
    assert insert(cache, [1, 2, 3, 4])
    assert reused(cache, [1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    assert reused(cache, [1, 2, 3, 4]) == [1, 2], "the last token has to be computed"
    assert reused(cache, [1, 2, 9]) == [1, 2]
    assert reused(cache, [1, 9]) == []
    assert reused(cache, [1]) == []


def test_a_span_is_stored_once_for_all_that_continue_it():
    cache = PromptCache(10**8)
    head = list(range(50))
    insert(cache, head)
    insert(cache, [*head, 101])
    insert(cache, [*head, 102])
    assert cache.nbytes == 52 * EACH_TOKEN + 3 * EACH_NODE
    assert cache.entries == 3


def test_siblings_may_begin_alike():
    cache = PromptCache(10**8)
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 5])
    assert reused(cache, [1, 2, 3, 4, 0]) == [1, 2, 3, 4]
    assert reused(cache, [1, 2, 5, 0]) == [1, 2, 5]


def test_the_least_recently_used_leaf_goes_first():
    each = 4 * EACH_TOKEN + EACH_NODE
    cache = PromptCache(3 * each)
    for first in (10, 20, 30):
        insert(cache, [first, 1, 2, 3])
    reused(cache, [10, 1, 2, 3, 4])
    insert(cache, [40, 1, 2, 3])
    assert reused(cache, [20, 1, 2, 3, 4]) == []
    assert [reused(cache, [f, 1, 2, 3, 4]) != [] for f in (10, 30, 40)] == [True] * 3


def test_a_snapshot_in_the_middle_goes_before_the_head_and_the_leaf():
    cache = PromptCache(6 * EACH_TOKEN + 3 * NODE_BYTES + 2 * SNAPSHOT_BYTES)
    insert(cache, [1, 2])
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 3, 4, 5, 6])
    assert reused(cache, [1, 2, 3, 4, 0]) == [1, 2], "given up"
    assert reused(cache, [1, 2, 3, 4, 5, 6, 7]) == [1, 2, 3, 4, 5, 6]
    cache.check()


def test_a_snapshot_given_up_can_come_back():
    cache = PromptCache(6 * EACH_TOKEN + 3 * NODE_BYTES + 2 * SNAPSHOT_BYTES)
    insert(cache, [1, 2])
    insert(cache, [1, 2, 3, 4])
    insert(cache, [1, 2, 3, 4, 5, 6])
    assert insert(cache, [1, 2, 3, 4])
    assert reused(cache, [1, 2, 3, 4, 0]) == [1, 2, 3, 4]
    cache.check()


def test_what_can_never_fit_pushes_nothing_out():
    cache = PromptCache(2 * EACH_TOKEN + EACH_NODE)
    assert insert(cache, [1, 2])
    assert not insert(cache, [7, 8, 9])
    assert not insert(cache, [1, 2, 3])
    assert reused(cache, [1, 2, 3]) == [1, 2]


def test_a_budget_of_nothing_holds_nothing():
    cache = PromptCache(0)
    assert not insert(cache, [1, 2])
    assert (cache.nbytes, cache.entries) == (0, 0)


def test_clear_empties():
    cache = PromptCache(10**8)
    insert(cache, [1, 2])
    cache.clear()
    assert reused(cache, [1, 2, 3]) == []
    assert (cache.nbytes, cache.entries) == (0, 0)
    insert(cache, [1, 2])
    cache.check()


def test_a_span_or_snapshot_of_other_tokens_is_refused():
    cache = PromptCache(10**8)
    with pytest.raises(ValueError, match="snapshot at 1"):
        cache.insert([1, 2], 0, Span((1, 2)), Snapshot((1,)))
    with pytest.raises(ValueError, match="span must hold"):
        cache.insert([1, 2], 0, Span((1,)), Snapshot((1, 2)))
    with pytest.raises(ValueError, match="nothing ends at token 1"):
        cache.insert([1, 2], 1, Span((2,)), Snapshot((1, 2)))


def test_tenants_share_nothing():
    cache = PromptCache(10**8)
    insert(cache, [1, 2, 3], "a")
    assert reused(cache, [1, 2, 3, 4], "b") == []
    assert cache.common([1, 2, 3, 4], "b") == cache.anchor([1, 2, 3], 3, "b") == 0
    insert(cache, [1, 2, 3], "b")
    assert reused(cache, [1, 2, 3, 4], "a") == reused(cache, [1, 2, 3, 4], "b") == [1, 2, 3]
    assert cache.entries == 2


def test_the_common_prefix_is_found_to_the_token():
    cache = PromptCache(10**8)
    insert(cache, [1, 2, 3])
    insert(cache, [1, 2, 3, 4, 5, 6, 7])
    insert(cache, [1, 2, 3, 4, 5, 9, 9])
    for tokens, common in (
        ([1, 2, 3, 4, 5, 9, 8, 7], 6),
        ([1, 2, 3, 4, 5, 9], 6),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 7),
        ([1, 2], 2),
        ([2], 0),
        ([], 0),
    ):
        assert cache.common(tokens) == common


def test_memory_that_is_needed_elsewhere_is_given_up():
    cache = PromptCache(10**8)
    for first in range(10):
        insert(cache, [first, 1, 2])
    each = 3 * EACH_TOKEN + EACH_NODE
    assert cache.shed(2 * each + 1) == 3 * each
    assert [reused(cache, [first, 1, 2, 3]) != [] for first in range(10)] == [False] * 3 + [
        True
    ] * 7
    assert cache.shed(10**9) == 7 * each
    assert (cache.nbytes, cache.entries) == (0, 0)
    cache.check()


sequences = st.lists(st.integers(0, 2), min_size=1, max_size=7)
tenants = st.sampled_from(["", "a", "b"])


class AgainstNaive(RuleBasedStateMachine):
    """The naive model is the set of sequences ever inserted and not seen to be gone, per tenant."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = 10 * SNAPSHOT_BYTES
        self.cache = PromptCache(self.budget)
        self.inserted: set[tuple[str, tuple[int, ...]]] = set()

    def prefixes(self, tokens: list[int], tenant: str) -> list[tuple[int, ...]]:
        return [
            kept
            for owner, kept in self.inserted
            if owner == tenant and len(kept) < len(tokens) and kept == tuple(tokens[: len(kept)])
        ]

    @rule(tokens=sequences, tenant=tenants)
    def keep(self, tokens: list[int], tenant: str) -> None:
        if insert(self.cache, tokens, tenant):
            self.inserted.add((tenant, tuple(tokens)))
            assert reused(self.cache, [*tokens, 9], tenant) == tokens, "what was just kept is there"

    @rule(tokens=sequences, tenant=tenants)
    def reuse(self, tokens: list[int], tenant: str) -> None:
        found = tuple(reused(self.cache, tokens, tenant))
        prefixes = self.prefixes(tokens, tenant)
        assert found == () or found in prefixes
        # Whatever is longer than what was found was evicted; it can only come back by keep().
        self.inserted -= {(tenant, kept) for kept in prefixes if len(kept) > len(found)}

    @rule(tokens=sequences, tenant=tenants)
    def anchors_and_common_prefixes(self, tokens: list[int], tenant: str) -> None:
        anchor = self.cache.anchor(tokens, len(tokens), tenant)
        common = self.cache.common(tokens, tenant)
        assert len(reused(self.cache, tokens, tenant)) <= anchor <= common <= len(tokens)

    @rule(amount=st.integers(0, 20 * SNAPSHOT_BYTES))
    def shed(self, amount: int) -> None:
        before = self.cache.nbytes
        freed = self.cache.shed(amount)
        assert freed == before - self.cache.nbytes
        assert freed >= min(amount, before)

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        self.inserted.clear()

    @invariant()
    def accounts_agree(self) -> None:
        self.cache.check()
        assert self.cache.nbytes <= self.budget


class Unbounded(RuleBasedStateMachine):
    """With room for everything the cache is exactly the naive set."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PromptCache(10**12)
        self.inserted: set[tuple[str, tuple[int, ...]]] = set()

    @rule(tokens=sequences, tenant=tenants)
    def keep(self, tokens: list[int], tenant: str) -> None:
        assert insert(self.cache, tokens, tenant)
        self.inserted.add((tenant, tuple(tokens)))

    @rule(tokens=sequences, tenant=tenants)
    def exactly_the_longest(self, tokens: list[int], tenant: str) -> None:
        mine = [kept for owner, kept in self.inserted if owner == tenant]
        common = [agreement(kept, tokens) for kept in mine]
        strict = [len(kept) for kept in mine if agreement(kept, tokens[:-1]) == len(kept)]
        whole = [len(kept) for kept in mine if agreement(kept, tokens) == len(kept)]
        assert len(reused(self.cache, tokens, tenant)) == max(strict, default=0)
        assert self.cache.anchor(tokens, len(tokens), tenant) == max(whole, default=0)
        assert self.cache.common(tokens, tenant) == max(common, default=0)

    @invariant()
    def accounts_agree(self) -> None:
        self.cache.check()


def agreement(left: Sequence[int], right: Sequence[int]) -> int:
    """How many first tokens are the same."""
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestUnbounded = Unbounded.TestCase
TestUnbounded.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
