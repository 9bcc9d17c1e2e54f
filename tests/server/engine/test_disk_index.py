"""The accounts of the disk tier against a naive list of entries."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from server.engine.cache_file import Entry
from server.engine.disk_index import BLOCK, DiskIndex, on_disk

Path = tuple[int, ...]


def address(path: Path) -> bytes:
    return bytes(path)


def span(path: Path, nbytes: int = 100) -> Entry:
    """A span of as many tokens as its last step says, on the path below it."""
    start = sum(path[:-1])
    return Entry("span", address(path), address(path[:-1]), start, sum(path), nbytes)


def state(path: Path, nbytes: int = 100) -> Entry:
    return Entry("state", address(path), address(path), sum(path), sum(path), nbytes)


def test_a_chain_is_its_spans_in_order():
    index = DiskIndex()
    for path in ((3,), (3, 2), (3, 2, 4)):
        index.add(span(path), 1.0)
    chain = index.chain(address((3, 2, 4)))
    assert chain == [span((3,)), span((3, 2)), span((3, 2, 4))]
    index.discard("span", address((3, 2)))
    assert index.chain(address((3, 2, 4))) is None
    assert index.chain(address((3,))) == [span((3,))]


def test_spans_that_do_not_join_are_no_chain_and_orphans():
    index = DiskIndex()
    index.add(span((3,)), 1.0)
    gap = Entry("span", b"x", address((3,)), 4, 6, 100)
    beyond = Entry("state", b"x", b"x", 6, 6, 100)
    wrong_end = Entry("state", address((3,)), address((3,)), 2, 2, 100)
    for entry in (gap, beyond, wrong_end):
        index.add(entry, 1.0)
    assert index.chain(b"x") is None
    assert {(entry.kind, entry.address) for entry in index.orphans()} == {
        (entry.kind, entry.address) for entry in (gap, beyond, wrong_end)
    }


def test_files_take_whole_blocks():
    assert [on_disk(size) for size in (0, 1, BLOCK, BLOCK + 1)] == [0, BLOCK, BLOCK, 2 * BLOCK]


paths = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
sizes = st.integers(0, 3 * BLOCK)


class AgainstNaive(RuleBasedStateMachine):
    """Parents are added before children, as they are written; times only go forward."""

    def __init__(self) -> None:
        super().__init__()
        self.index = DiskIndex()
        self.spans: dict[Path, int] = {}
        self.states: dict[Path, int] = {}
        self.now = 0.0

    def tick(self) -> float:
        self.now += 1
        return self.now

    @rule(path=paths, nbytes=sizes)
    def add(self, path: Path, nbytes: int) -> None:
        if len(path) == 1 or path[:-1] in self.spans:
            self.index.add(span(path, nbytes), self.tick())
            self.spans[path] = nbytes

    @rule(path=paths, nbytes=sizes)
    def add_state(self, path: Path, nbytes: int) -> None:
        if path in self.spans:
            self.index.add(state(path, nbytes), self.tick())
            self.states[path] = nbytes

    @rule(path=paths)
    def use(self, path: Path) -> None:
        if path in self.states:
            self.index.touch(state(path), self.tick())

    @rule(path=paths)
    def discard_span(self, path: Path) -> None:
        removed = self.index.discard("span", address(path))
        gone = {p for p in self.spans if p[: len(path)] == path} if path in self.spans else set()
        states = {p for p in self.states if p in gone}
        assert {entry.address for entry in removed if entry.kind == "span"} == set(
            map(address, gone)
        )
        assert {e.address for e in removed if e.kind == "state"} == set(map(address, states))
        self.spans = {p: size for p, size in self.spans.items() if p not in gone}
        self.states = {p: size for p, size in self.states.items() if p not in gone}

    @rule(path=paths)
    def discard_state(self, path: Path) -> None:
        removed = self.index.discard("state", address(path))
        assert [entry.address for entry in removed] == [address(path)] * (path in self.states)
        self.states.pop(path, None)

    @rule(low=st.integers(0, 12), high=st.integers(0, 12))
    def ends(self, low: int, high: int) -> None:
        expected = sorted({sum(path) for path in self.states if low < sum(path) <= high})
        assert self.index.state_ends(low, high) == expected

    @rule(path=paths)
    def chain(self, path: Path) -> None:
        chain = self.index.chain(address(path))
        if path not in self.spans:
            assert chain is None
        else:
            assert chain is not None
            assert [entry.address for entry in chain] == [
                address(path[:count]) for count in range(1, len(path) + 1)
            ]

    @invariant()
    def accounts_agree(self) -> None:
        sizes = [*self.spans.values(), *self.states.values()]
        assert self.index.nbytes == sum(map(on_disk, sizes))
        assert len(self.index) == len(sizes)
        assert self.index.orphans() == []

    @invariant()
    def nothing_goes_before_what_stands_on_it(self) -> None:
        order = [(entry.kind, entry.address) for _, entry in self.index.oldest_first()]
        place = {key: number for number, key in enumerate(order)}
        assert len(place) == len(self.index)
        for path in self.spans:
            if len(path) > 1:
                assert place["span", address(path)] < place["span", address(path[:-1])]
        for path in self.states:
            assert place["state", address(path)] < place["span", address(path)]


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
