"""The prompt cache: what earlier prompts left behind, as a tree over token ids.

A node holds the keys and values of the tokens since its parent and, mostly, a snapshot of the
recurrent states at its end. Keys and values can be cut anywhere, recurrent states can not be
rewound, so reuse ends at a node with a snapshot. Knows bytes and token ids, not arrays; what goes
first is `eviction`'s, what outlives the process `disk_tier`'s. Used by one thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.engine.disk_tier import Chain, DiskTier
from server.engine.eviction import EvictionQueue
from server.engine.ports import KVSpan, RecurrentSnapshot
from server.engine.prefix_tree import NODE_BYTES, TOKEN, Node, PrefixTree, packed
from server.engine.saver import Saver

IDLE_WAIT_S = 0.005  # for how long a piece of idle work may wait for the disk


@dataclass(frozen=True, slots=True)
class Hit:
    """A reusable prefix of `length` tokens: `spans` in order cover it, `snapshot` is at its end."""

    length: int
    spans: tuple[KVSpan, ...]
    snapshot: RecurrentSnapshot


class PromptCache:
    """At most `budget` bytes of spans, snapshots and index; with a disk, what is not held any more
    comes back from there when a prompt asks for it.

    `tenant` keys, of whatever meaning, share nothing with each other.
    """

    def __init__(self, budget: int, disk: DiskTier | None = None) -> None:
        self._budget = budget
        self._bytes = 0
        self._tree = PrefixTree()
        self._queue = EvictionQueue()
        self._disk: DiskTier | None = None
        self._left_on_disk = 0  # when it was closed
        self._saver: Saver | None = None
        if disk is not None:
            self.attach(disk)

    def attach(self, disk: DiskTier) -> None:
        """Saves to and reads from `disk` from now on; it is closed with the cache."""
        self._disk, self._saver = disk, Saver(disk)
        for node in self._tree.nodes():
            self._saver.note(node)

    @property
    def nbytes(self) -> int:
        """Bytes of all spans and snapshots held, and of the index over them (an estimate)."""
        return self._bytes

    @property
    def entries(self) -> int:
        """Nodes in the tree."""
        return self._tree.count

    @property
    def disk_bytes(self) -> int:
        """Bytes that this model's entries take of the disk. May be asked from any thread."""
        disk = self._disk
        return disk.nbytes if disk is not None else self._left_on_disk

    @property
    def disk_folder(self) -> Path | None:
        """Where the disk tier writes; None when there is none, or it is off."""
        return self._disk.folder if self._disk is not None else None

    def lookup(self, tokens: Sequence[int], tenant: str = "") -> Hit | None:
        """The longest reusable prefix of `tokens` that leaves at least one token to compute.

        What only the disk has is read here: one to three milliseconds a megabyte, by the machine.
        """
        data, limit = packed(tokens), len(tokens) - 1
        best: Node | None = None
        for node in self._tree.matching(tenant, data, limit):
            if node.snapshot is not None and (best is None or node.end > best.end):
                best = node
        best = self._recalled(tenant, data, limit, best)
        if best is None or best.snapshot is None:
            return None
        best.reused = True
        self._queue.touch(best)
        if self._disk is not None and self._saver is not None:
            self._saver.note(best)
            if best.address is not None:
                self._disk.used(best.address)
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
        if self._saver is not None:
            self._saver.note(node)
        self._shrink(self._budget)
        return node.alive and node.snapshot is not None

    def shed(self, amount: int) -> int:
        """Gives up at least `amount` bytes, or everything; returns how many."""
        before = self._bytes
        self._shrink(max(before - amount, 0))
        return before - self._bytes

    def clear(self) -> None:
        """Gives up everything in memory."""
        if self._saver is not None:
            self._saver.clear()
        self._tree.clear()
        self._queue.clear()
        self._bytes = 0

    def idle_work(self, wait: float = IDLE_WAIT_S) -> bool:
        """One piece of work for the disk, a few milliseconds; True when there is more.

        wait: seconds to wait at most for the writer, which is for those who would only call again
        at once; with 0 it may be called between two steps of a server that is never idle.
        """
        return self._saver is not None and self._saver.step(wait)

    def close(self, seconds: float = 5.0) -> None:
        """Saves what the disk does not have yet, the newest first, for at most `seconds`; nothing
        is saved or read from there afterwards. What is held stays, until clear()."""
        if self._disk is None or self._saver is None:
            return
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._saver.step(IDLE_WAIT_S, newest=True):
            pass
        self._saver.clear()
        self._disk.close(max(deadline - time.monotonic(), 0.0))
        self._left_on_disk = self._disk.nbytes
        self._disk = self._saver = None

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
                self._forget(node)
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
            self._forget(node)
            node = parent
        if node is not None and node.parent is not None:
            self._queue.lost_children(node)

    def _forget(self, node: Node) -> None:
        if self._saver is not None:
            self._saver.forget(node)

    # What the disk has.

    def _recalled(self, tenant: str, data: bytes, limit: int, best: Node | None) -> Node | None:
        """`best`, or a node further on that the disk had the states for."""
        while self._disk is not None:
            chain = self._disk.find(tenant, data, best.end if best else 0, limit)
            if chain is None:
                break
            if best is not None:
                self._queue.touch(best)  # it must not go to make room for what continues it
            if not self._make_room(tenant, data, chain):
                limit = chain.state.end - 1  # a shorter one may fit
                continue
            node = self._loaded(tenant, data, chain)
            if node is not None:
                return node
            # Something was damaged, and is off the disk now: there may be a shorter one.
        return best if best is not None and best.alive else None

    def _missing(self, tenant: str, data: bytes, chain: Chain) -> tuple[Node, int]:
        """The last node on the chain's way that is held, and how many of its spans lead there."""
        held = {node.end: node for node in self._tree.matching(tenant, data, chain.state.end)}
        for count in range(len(chain.spans), 0, -1):
            node = held.get(chain.spans[count - 1].end)
            if node is not None:
                return node, count
        return self._tree.root(tenant), 0

    def _make_room(self, tenant: str, data: bytes, chain: Chain) -> bool:
        node, count = self._missing(tenant, data, chain)
        missing = chain.spans[count:]
        needed = sum(e.nbytes + NODE_BYTES for e in missing) + chain.state.nbytes
        path = sum(above.nbytes - _held(above.snapshot) for above in node.path())
        if path + needed > self._budget:
            return False
        self._shrink(self._budget - needed)
        return True

    def _loaded(self, tenant: str, data: bytes, chain: Chain) -> Node | None:
        """The node at the chain's end, after what was missing was read; None when that failed."""
        disk = self._disk
        if disk is None:
            return None
        node, count = self._missing(tenant, data, chain)
        spans: list[KVSpan] = []
        for entry in chain.spans[count:]:
            span = disk.read_span(entry, data)
            if span is None:
                return None
            spans.append(span)
        snapshot = disk.read_state(chain.state)
        if snapshot is None:
            return None
        for entry, span in zip(chain.spans[count:], spans, strict=True):
            own = data[entry.start * TOKEN : entry.end * TOKEN]
            node = self._tree.attach(node, own, span, None)
            node.address = entry.address
            self._bytes += node.nbytes
        node.snapshot = snapshot
        node.address = chain.state.address
        self._bytes += snapshot.nbytes
        self._queue.touch(node)
        self._queue.grown(node)
        self._shrink(self._budget)
        return node if node.alive and node.snapshot is not None else None


def _held(snapshot: RecurrentSnapshot | None) -> int:
    return 0 if snapshot is None else snapshot.nbytes
