"""The prompt cache: what earlier prompts left behind, as a tree over token ids.

A node holds the keys and values of the tokens since its parent and, mostly, a snapshot of the
recurrent states at its end. Keys and values can be cut anywhere, recurrent states can not be
rewound, so reuse ends at a node with a snapshot. Siblings may begin with the same tokens: nodes
end where messages end, and a span is never cut. Knows bytes and token ids, not arrays; used by
one thread.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.engine.ports import KVSpan, RecurrentSnapshot


@dataclass(frozen=True, slots=True)
class Hit:
    """A reusable prefix of `length` tokens: `spans` in order cover it, `snapshot` is at its end."""

    length: int
    spans: tuple[KVSpan, ...]
    snapshot: RecurrentSnapshot


class _Node:
    __slots__ = ("alive", "children", "end", "parent", "snapshot", "span", "tokens", "used")

    def __init__(
        self,
        parent: _Node | None,
        tokens: tuple[int, ...],
        span: KVSpan | None,
        snapshot: RecurrentSnapshot | None,
    ) -> None:
        self.parent = parent
        self.tokens = tokens
        self.span = span
        self.snapshot = snapshot
        self.end: int = (parent.end if parent else 0) + len(tokens)
        self.children: dict[int, list[_Node]] = {}
        self.used = 0
        self.alive = True


class PromptCache:
    """At most `budget` bytes of spans and snapshots, the least recently used given up first.

    Two things can be given up: a leaf as a whole, and the snapshot of an inner node, whose span
    still serves its descendants. A snapshot counts as used when a prompt's reuse ended at it.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._bytes = 0
        self._count = 0
        self._clock = 0
        self._root = _Node(None, (), None, None)
        # (used, order, node); an entry whose node was used since, or is gone, is stale.
        self._oldest: list[tuple[int, int, _Node]] = []
        self._order = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all spans and snapshots held."""
        return self._bytes

    @property
    def entries(self) -> int:
        """Nodes in the tree."""
        return self._count

    def lookup(self, tokens: Sequence[int]) -> Hit | None:
        """The longest reusable prefix of `tokens` that leaves at least one token to compute."""
        best: _Node | None = None
        for node in self._matching(tokens, len(tokens) - 1):
            if node.snapshot is not None and (best is None or node.end > best.end):
                best = node
        if best is None or best.snapshot is None:
            return None
        self._touch(best)
        return Hit(best.end, tuple(self._spans(best)), best.snapshot)

    def anchor(self, tokens: Sequence[int], end: int) -> int:
        """Where an insertion of `tokens[:end]` has to start: the longest prefix of it, at most
        `end`, whose spans are all here."""
        return max((node.end for node in self._matching(tokens, end)), default=0)

    def insert(
        self,
        tokens: Sequence[int],
        start: int,
        span: KVSpan | None,
        snapshot: RecurrentSnapshot,
    ) -> bool:
        """Keeps `tokens` with the state at their end; returns whether it is held now.

        start: what `anchor(tokens, len(tokens))` said; span: the keys and values of
        tokens[start:], None when that is nothing.
        """
        if snapshot.position != len(tokens):
            raise ValueError(f"snapshot at {snapshot.position}, tokens end at {len(tokens)}")
        parent = self._node_at(tokens, start)
        added = snapshot.nbytes + (span.nbytes if span else 0)
        if added + sum(held.nbytes for held in self._spans(parent)) > self._budget:
            return False  # it would push out everything else and then itself
        if start == len(tokens):
            node = parent
            if node.snapshot is None:
                node.snapshot = snapshot
                self._bytes += snapshot.nbytes
        else:
            if span is None or span.length != len(tokens) - start:
                raise ValueError(f"span must hold tokens {start} to {len(tokens)}")
            node = _Node(parent, tuple(tokens[start:]), span, snapshot)
            parent.children.setdefault(node.tokens[0], []).append(node)
            self._bytes += added
            self._count += 1
        self._touch(node)
        self._shrink()
        return node.alive and node.snapshot is not None

    def clear(self) -> None:
        """Gives up everything."""
        self._root = _Node(None, (), None, None)
        self._oldest.clear()
        self._bytes = self._count = 0

    def check(self) -> None:
        """Raises AssertionError when the accounts do not agree with the tree."""
        total = count = 0
        stack = [child for group in self._root.children.values() for child in group]
        while stack:
            node = stack.pop()
            children = [child for group in node.children.values() for child in group]
            held = node.snapshot.nbytes if node.snapshot else 0
            total += held + (node.span.nbytes if node.span else 0)
            count += 1
            if not children and node.snapshot is None:
                raise AssertionError("a leaf without a snapshot serves nobody")
            stack += children
        if (total, count) != (self._bytes, self._count):
            raise AssertionError(f"{self._bytes} bytes in {self._count} nodes, {total} in {count}")
        if total > self._budget:
            raise AssertionError(f"{total} bytes over a budget of {self._budget}")

    def _matching(self, tokens: Sequence[int], limit: int) -> Iterator[_Node]:
        """Every node whose whole path is a prefix of tokens[:limit]."""
        stack = [self._root]
        while stack:
            node = stack.pop()
            if node.end >= limit:
                continue
            for child in node.children.get(tokens[node.end], ()):
                if child.end <= limit and tuple(tokens[node.end : child.end]) == child.tokens:
                    yield child
                    stack.append(child)

    def _node_at(self, tokens: Sequence[int], end: int) -> _Node:
        if end == 0:
            return self._root
        for node in self._matching(tokens, end):
            if node.end == end:
                return node
        raise ValueError(f"nothing ends at token {end}")

    def _spans(self, node: _Node) -> list[KVSpan]:
        spans: list[KVSpan] = []
        while node.parent is not None:
            if node.span is not None:
                spans.append(node.span)
            node = node.parent
        return spans[::-1]

    def _touch(self, node: _Node) -> None:
        self._clock += 1
        node.used = self._clock
        self._push(node)

    def _push(self, node: _Node) -> None:
        self._order += 1
        heapq.heappush(self._oldest, (node.used, self._order, node))
        if len(self._oldest) > 4 * self._count + 64:
            self._oldest = [entry for entry in self._oldest if self._current(entry)]
            heapq.heapify(self._oldest)

    @staticmethod
    def _current(entry: tuple[int, int, _Node]) -> bool:
        used, _, node = entry
        return node.alive and node.used == used

    def _shrink(self) -> None:
        while self._bytes > self._budget:
            entry = heapq.heappop(self._oldest)
            if not self._current(entry):
                continue
            node = entry[2]
            if not node.children:
                self._remove(node)
            elif node.snapshot is not None:
                self._bytes -= node.snapshot.nbytes
                node.snapshot = None

    def _remove(self, leaf: _Node) -> None:
        """Takes a leaf out, and the ancestors that served only it."""
        node = leaf
        while node.parent is not None and not node.children:
            if node is not leaf and node.snapshot is not None:
                return
            parent = node.parent
            group = parent.children[node.tokens[0]]
            group.remove(node)
            if not group:
                del parent.children[node.tokens[0]]
            self._bytes -= node.span.nbytes if node.span else 0
            self._bytes -= node.snapshot.nbytes if node.snapshot else 0
            self._count -= 1
            node.alive = False
            node = parent
