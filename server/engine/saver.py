"""Which states of the prompt cache go to the disk, and in which order.

Knows nodes and what the disk has; not how a file is written. A state is worth its bytes when
without it enough would have to be computed again: one in 128 of its tokens, and one for every
256 KiB that it takes. What it stands on goes before it. Used by the thread that owns the arrays.
"""

from __future__ import annotations

import logging

from server.engine.cache_file import ADDRESS, Entry
from server.engine.disk_saving import Saving
from server.engine.disk_tier import DiskTier
from server.engine.prefix_tree import TOKEN, Node

log = logging.getLogger(__name__)

_FRACTION = 128
_BYTES_PER_TOKEN = 256 << 10


class Saver:
    """note() what is new, then step() in idle time while it says that there is more."""

    def __init__(self, disk: DiskTier) -> None:
        self._disk = disk
        # Nodes to look at, in the order they were noted, with what was tried for each: what could
        # not be stored once is not tried for ever.
        self._unsaved: dict[Node, set[tuple[str, bytes]]] = {}
        self._saving: Saving | None = None
        self._owner: Node | None = None  # whose state is being saved

    def note(self, node: Node) -> None:
        """A node got a state, or served."""
        self._unsaved.pop(node, None)
        if self._disk.writing:
            self._unsaved[node] = set()

    def forget(self, node: Node) -> None:
        """A node was given up, or its state was: nothing here may hold it any longer."""
        if node.snapshot is None or not node.alive:
            self._unsaved.pop(node, None)
        if node is self._owner:
            self._stop()

    def clear(self) -> None:
        """Forgets everything, also what is half saved."""
        self._unsaved.clear()
        self._stop()

    def step(self, wait: float, *, newest: bool = False) -> bool:
        """One bounded piece of work: copies at most a few megabytes and waits at most `wait`
        seconds; whether there is more. With `newest`, the ends of the newest conversations go
        first."""
        if self._saving is None:
            self._begin(newest)
        else:
            try:
                if not self._saving.step(wait):
                    self._saving = self._owner = None
            except Exception as error:
                log.warning("prompt cache on disk: a state cannot be saved: %s", error)
                if self._owner is not None:
                    self._unsaved.pop(self._owner, None)
                self._stop()
        return self._saving is not None or bool(self._unsaved)

    def _begin(self, newest: bool) -> None:
        while self._unsaved and self._saving is None:
            node = self._newest_leaf() if newest else next(iter(self._unsaved))
            due = self._due(node) if self._disk.writing else None
            if due is None or (due[1].kind, due[1].address) in self._unsaved[node]:
                del self._unsaved[node]
                continue
            owner, entry = due
            self._unsaved[node].add((entry.kind, entry.address))
            span = entry.kind == "span"
            try:
                self._saving = self._disk.save(
                    entry, owner.tokens if span else b"", owner.span if span else owner.snapshot
                )
                self._owner = owner
            except ValueError as error:
                log.warning("prompt cache on disk: a state cannot be saved: %s", error)
                del self._unsaved[node]

    def _newest_leaf(self) -> Node:
        for node in reversed(self._unsaved):
            if not node.children:
                return node
        return next(iter(self._unsaved))

    def _due(self, node: Node) -> tuple[Node, Entry] | None:
        """The next file that `node` needs, and whose it is."""
        disk = self._disk
        if not node.alive or node.snapshot is None:
            return None
        path = self._addressed(node)
        address = path[-1][1]
        if disk.has("state", address):
            return None
        saved = max((above.end for above, a in path[:-1] if disk.has("state", a)), default=0)
        least = max(node.end / _FRACTION, node.snapshot.nbytes / _BYTES_PER_TOKEN)
        whole = node.snapshot.nbytes + sum(above.nbytes for above, _ in path)
        if node.end - saved < least or whole > disk.limit_bytes // 2:
            return None
        parent = b""
        for above, own in path:
            if not disk.has("span", own):
                start = above.end - len(above.tokens) // TOKEN
                return above, Entry("span", own, parent, start, above.end, 0)
            parent = own
        return node, Entry("state", address, address, node.end, node.end, 0)

    def _addressed(self, node: Node) -> list[tuple[Node, bytes]]:
        """The path to `node`, with addresses."""
        path = node.path()
        if any(above.address is None for above in path):
            hasher = self._disk.hasher(node.tenant)
            for above in path:
                hasher.update(above.tokens)
                above.address = hasher.digest()[:ADDRESS]
        return [(above, above.address or b"") for above in path]

    def _stop(self) -> None:
        if self._saving is not None:
            self._saving.abort()
        self._saving = self._owner = None
