"""What the prompt cache gives up first: least recently used, by weighted age.

Three kinds of thing age at three speeds. An inner snapshot that can be missed (its neighbours are
near, seen from where the conversation ends) ages four times as fast as a path that no later prompt
ever continued; one that was continued ages eight times slower than that. So a burst of one-off
requests pushes out its own kind, a conversation first loses snapshots in its middle, and a
conversation nobody came back to still goes in the end. Knows nodes and a clock, no bytes.
"""

from __future__ import annotations

import heapq

from server.engine.prefix_tree import Node

SPARE, ONCE, REUSED = range(3)
WEIGHTS = (32, 8, 1)
KEEP_NEWEST = 3  # inner snapshots at the end of a path that are never spare


class EvictionQueue:
    """Orders what can be given up: leaves as a whole, and the snapshots of inner nodes."""

    def __init__(self) -> None:
        self._clock = 0
        self._order = 0
        # (used, order, node); stale when the node was used since, changed its lane, or is gone.
        self._lanes: tuple[list[tuple[int, int, Node]], ...] = ([], [], [])
        self._current = [0, 0, 0]  # entries of each lane after it was last cleaned

    def touch(self, node: Node) -> None:
        """The node, or the snapshot at its end, serves now; with it the first snapshot of its
        path, usually the end of system and tools, which every new conversation begins from."""
        self._clock += 1
        head = next((above for above in node.path() if above.snapshot is not None), node)
        for served in {id(head): head, id(node): node}.values():
            served.used = self._clock
            self._enter(served)

    def grown(self, leaf: Node) -> None:
        """A leaf was attached: the snapshots above it are further from the end now."""
        above = leaf.parent
        while above is not None and above.parent is not None:
            if above.lane != SPARE:
                self._enter(above)
            above = above.parent

    def lost_children(self, node: Node) -> None:
        """Children were taken out: the node may be a leaf again."""
        self._enter(node)

    def victim(self) -> Node | None:
        """The next to give up: a leaf, or an inner node that has a snapshot; None when empty."""
        while True:
            oldest: Node | None = None
            age = -1
            for lane, weight in enumerate(WEIGHTS):
                node = self._first(lane)
                if node is not None and (self._clock - node.used) * weight > age:
                    oldest, age = node, (self._clock - node.used) * weight
            if oldest is None or oldest.lane != SPARE or spare(oldest):
                return oldest
            self._move(oldest, REUSED if oldest.reused else ONCE)

    def clear(self) -> None:
        """Forgets everything."""
        for lane in self._lanes:
            lane.clear()

    def _enter(self, node: Node) -> None:
        if node.snapshot is None:
            node.lane = None
        elif node.children:
            self._move(node, SPARE)
        else:
            self._move(node, REUSED if node.reused else ONCE)

    def _move(self, node: Node, lane: int) -> None:
        node.lane = lane
        self._order += 1
        entries = self._lanes[lane]
        heapq.heappush(entries, (node.used, self._order, node))
        if len(entries) > 2 * self._current[lane] + 64:
            entries[:] = {id(e[2]): e for e in entries if _current(e, lane)}.values()
            heapq.heapify(entries)
            self._current[lane] = len(entries)

    def _first(self, lane: int) -> Node | None:
        entries = self._lanes[lane]
        while entries and not _current(entries[0], lane):
            heapq.heappop(entries)
        return entries[0][2] if entries else None


def _current(entry: tuple[int, int, Node], lane: int) -> bool:
    used, _, node = entry
    return node.alive and node.used == used and node.lane == lane and node.snapshot is not None


def spare(node: Node) -> bool:
    """Whether an inner snapshot can be missed. Not the first of its path, not where paths part,
    not one of the newest; else when what would be fed again in its absence is at most half of
    what lies between there and the end of the conversation, so the ones kept stand at distances
    that grow geometrically."""
    above = node.parent
    while above is not None and above.snapshot is None:
        above = above.parent
    if above is None:
        return False
    below = node.only_child()
    if below is None:
        return False
    following: int | None = None
    inner, end = 0, below.end
    while below is not None:
        end = below.end
        if below.snapshot is not None:
            following = end if following is None else following
            inner += bool(below.children)
        elif below.children and below.only_child() is None and following is None:
            return False  # paths part before the next snapshot: all of them would fall back to here
        below = below.only_child() or next(below.each_child(), None)
    if following is None or inner < KEEP_NEWEST:
        return False
    return (following - above.end) * 2 <= end - following
