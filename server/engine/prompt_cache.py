"""The prompt cache: what earlier prompts left behind, as a tree over token ids.

A node holds the keys and values of the tokens since its parent and, mostly, a snapshot of the
recurrent states at its end. Keys and values can be cut anywhere, recurrent states can not be
rewound, so reuse ends at a node with a snapshot. Knows bytes and token ids, not arrays; what goes
first is `eviction`'s, what comes back after a restart `disk_tier`'s. Used by one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.engine.eviction import EvictionQueue
from server.engine.ports import KVSpan, RecurrentSnapshot
from server.engine.prefix_tree import NODE_BYTES, TOKEN, Node, PrefixTree, packed


@dataclass(frozen=True, slots=True)
class Hit:
    """A reusable prefix of `length` tokens: `spans` in order cover it, `snapshot` is at its end."""

    length: int
    spans: tuple[KVSpan, ...]
    snapshot: RecurrentSnapshot


class PromptCache:
    """At most `budget` bytes of spans, snapshots and index.

    `tenant` keys, of whatever meaning, share nothing with each other.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._tree = PrefixTree()
        self._queue = EvictionQueue()

    @property
    def nbytes(self) -> int:
        """Bytes of all spans and snapshots held, and of the index over them (an estimate)."""
        return self._bytes

    @property
    def entries(self) -> int:
        """Nodes in the tree."""
        return self._tree.count

    def lookup(self, tokens: Sequence[int], tenant: str = "") -> Hit | None:
        """The longest reusable prefix of `tokens` that leaves at least one token to compute."""
        best: Node | None = None
        for node in self._tree.matching(tenant, packed(tokens), len(tokens) - 1):
            if node.snapshot is not None and (best is None or node.end > best.end):
                best = node
        if best is None or best.snapshot is None:
            return None
        best.reused = True
        self._queue.touch(best)
        spans = tuple(node.span for node in best.path() if node.span is not None)
        return Hit(best.end, spans, best.snapshot)

    def common(self, tokens: Sequence[int], tenant: str = "") -> int:
        """Tokens of the longest prefix that `tokens` shares with anything held, reusable or not."""
        return self._tree.common(tenant, packed(tokens))

    def anchor(self, tokens: Sequence[int], end: int, tenant: str = "") -> int:
        """Where an insertion of `tokens[:end]` has to start: the longest prefix of it, at most
        `end`, whose spans are all here."""
        found = self._tree.matching(tenant, packed(tokens[:end]), end)
        return max((node.end for node in found), default=0)

    def insert(
        self,
        tokens: Sequence[int],
        start: int,
        span: KVSpan | None,
        snapshot: RecurrentSnapshot,
        tenant: str = "",
    ) -> bool:
        """Keeps `tokens` with the state at their end; returns whether it is held now.

        start: what `anchor(tokens, len(tokens), tenant)` said; span: the keys and values of
        tokens[start:], None when that is nothing.
        """
        if snapshot.position != len(tokens):
            raise ValueError(f"snapshot at {snapshot.position}, tokens end at {len(tokens)}")
        data = packed(tokens)
        node = self._node_at(tenant, data, start)
        path = sum(above.nbytes - _held(above.snapshot) for above in node.path())
        if start < len(tokens):
            if span is None or span.length != len(tokens) - start:
                raise ValueError(f"span must hold tokens {start} to {len(tokens)}")
            own = data[start * TOKEN :]
            path += NODE_BYTES + len(own) + span.nbytes
            if path + snapshot.nbytes > self._budget:
                return False  # it would push out everything else and then itself
            node = self._tree.attach(node, own, span, snapshot)
            self._bytes += node.nbytes
            self._queue.touch(node)
            self._queue.grown(node)
        else:
            if node.snapshot is None:
                if path + snapshot.nbytes > self._budget:
                    return False
                node.snapshot = snapshot
                self._bytes += snapshot.nbytes
            self._queue.touch(node)
        self._shrink(self._budget)
        return node.alive and node.snapshot is not None

    def shed(self, amount: int) -> int:
        """Gives up at least `amount` bytes, or everything; returns how many."""
        before = self._bytes
        self._shrink(max(before - amount, 0))
        return before - self._bytes

    def clear(self) -> None:
        """Gives up everything."""
        self._tree.clear()
        self._queue.clear()
        self._bytes = 0

    def check(self) -> None:
        """Raises AssertionError when the accounts do not agree with the tree."""
        total = count = 0
        for node in self._tree.nodes():
            total += node.nbytes
            count += 1
            if not node.alive or node.parent is None:
                raise AssertionError("a node in the tree was taken out")
            if not node.children and node.snapshot is None:
                raise AssertionError("a leaf without a snapshot serves nobody")
            if node.end != node.parent.end + len(node.tokens) // TOKEN:
                raise AssertionError("a node does not begin where its parent ends")
            if node.span is None or node.span.length != node.end - node.parent.end:
                raise AssertionError("a span does not cover its node's tokens")
            if node.snapshot is not None and node.snapshot.position != node.end:
                raise AssertionError("a snapshot does not stand at its node's end")
        if (total, count) != (self._bytes, self._tree.count):
            raise AssertionError(
                f"{self._bytes} bytes in {self._tree.count} nodes, {total} in {count}"
            )
        if total > self._budget:
            raise AssertionError(f"{total} bytes over a budget of {self._budget}")

    def _node_at(self, tenant: str, data: bytes, end: int) -> Node:
        if end == 0:
            return self._tree.root(tenant)
        for node in self._tree.matching(tenant, data, end):
            if node.end == end:
                return node
        raise ValueError(f"nothing ends at token {end}")

    def _shrink(self, limit: int) -> None:
        while self._bytes > limit:
            node = self._queue.victim()
            if node is None:
                return
            if node.children:
                self._bytes -= _held(node.snapshot)
                node.snapshot = None
            else:
                self._remove(node)

    def _remove(self, leaf: Node) -> None:
        """Takes a leaf out, and the ancestors that served only it."""
        node: Node | None = leaf
        while node is not None and node.parent is not None and not node.children:
            if node is not leaf and node.snapshot is not None:
                break
            parent = node.parent
            self._tree.detach(node)
            self._bytes -= node.nbytes
            node = parent
        if node is not None and node.parent is not None:
            self._queue.lost_children(node)


def _held(snapshot: RecurrentSnapshot | None) -> int:
    return 0 if snapshot is None else snapshot.nbytes
