"""What the disk holds of the prompt cache, as accounts in memory: which chains are whole, what was
used when, what goes first.

Knows entries, no files; its owner does what it says. Not locked.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Iterable

from server.engine.cache_file import Entry, Kind

BLOCK = 4096  # a file system gives space in blocks


def on_disk(nbytes: int) -> int:
    """What a file of `nbytes` takes of the disk."""
    return -(-nbytes // BLOCK) * BLOCK


class DiskIndex:
    """Spans form trees by their parents' addresses; a state stands at the end of its span."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._entries: dict[tuple[Kind, bytes], Entry] = {}
        self._used: dict[tuple[Kind, bytes], float] = {}
        self._children: dict[bytes, set[bytes]] = {}
        self._ends: list[int] = []  # where states stand, ascending, each once
        self._states_at: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, kind: Kind, address: bytes) -> Entry | None:
        return self._entries.get((kind, address))

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def state_ends(self, beyond: int, limit: int) -> list[int]:
        """Token counts in (beyond, limit] at which any state stands, ascending."""
        return self._ends[bisect_right(self._ends, beyond) : bisect_right(self._ends, limit)]

    def chain(self, address: bytes) -> list[Entry] | None:
        """The spans that cover the tokens before `address`, in order; None when one is missing."""
        spans: list[Entry] = []
        while address:
            span = self._entries.get(("span", address))
            if span is None:
                return None
            if spans and span.end != spans[-1].start:
                return None
            spans.append(span)
            address = span.parent
        return spans[::-1] if spans and spans[-1].start == 0 else None

    def add(self, entry: Entry, used: float) -> None:
        """Takes an entry in; what it stands on is used with it. Parents have to come first."""
        key = (entry.kind, entry.address)
        if key in self._entries:
            used = max(used, self._used[key])
            self._drop(key)
        self._entries[key] = entry
        self._used[key] = used
        self.nbytes += on_disk(entry.nbytes)
        if entry.kind == "span":
            self._children.setdefault(entry.parent, set()).add(entry.address)
        else:
            self._states_at[entry.end] += 1
            if self._states_at[entry.end] == 1:
                insort(self._ends, entry.end)
        self.touch(entry, used)

    def touch(self, entry: Entry, used: float) -> None:
        """`entry` was used, and with it the spans below it: none is ever older than what it
        carries."""
        key = (entry.kind, entry.address)
        self._used[key] = max(self._used[key], used)
        address = entry.parent if entry.kind == "span" else entry.address
        while address and ("span", address) in self._entries:
            # Where it is as recent already, all below it is.
            if self._used["span", address] >= used:
                return
            self._used["span", address] = used
            address = self._entries["span", address].parent

    def discard(self, kind: Kind, address: bytes) -> list[Entry]:
        """Takes an entry out, and what serves nobody without it; returns all of these."""
        removed: list[Entry] = []
        keys: list[tuple[Kind, bytes]] = [(kind, address)]
        while keys:
            key = keys.pop()
            if key in self._entries:
                removed.append(self._drop(key))
            if key[0] == "span":
                keys.append(("state", key[1]))
                keys.extend(("span", child) for child in self._children.get(key[1], ()))
        return removed

    def orphans(self) -> list[Entry]:
        """Entries whose tokens are not covered from the first on."""
        covered: dict[bytes, int] = {b"": 0}  # address of each whole chain -> its tokens
        found: list[Entry] = []
        # Parents end before their children, and spans come before the states at their ends.
        for entry in sorted(self._entries.values(), key=lambda entry: (entry.end, entry.kind)):
            below = entry.parent if entry.kind == "span" else entry.address
            if covered.get(below) != entry.start:
                found.append(entry)
            elif entry.kind == "span":
                covered[entry.address] = entry.end
        return found

    def oldest_first(self) -> list[tuple[float, Entry]]:
        """All entries with their time of use, in the order in which they should go: the least
        recently used first, what stands on others before them."""
        items = [(self._used[key], entry) for key, entry in self._entries.items()]
        items.sort(key=lambda item: (item[0], -item[1].end, item[1].kind == "span"))
        return items

    def missing(self, present: Iterable[tuple[Kind, bytes]]) -> list[Entry]:
        """Entries that are not among `present`."""
        there = set(present)
        return [entry for key, entry in self._entries.items() if key not in there]

    def _drop(self, key: tuple[Kind, bytes]) -> Entry:
        entry = self._entries.pop(key)
        del self._used[key]
        self.nbytes -= on_disk(entry.nbytes)
        if entry.kind == "span":
            children = self._children.get(entry.parent, set())
            children.discard(entry.address)
            if not children:
                self._children.pop(entry.parent, None)
        else:
            self._states_at[entry.end] -= 1
            if not self._states_at[entry.end]:
                del self._states_at[entry.end]
                del self._ends[bisect_left(self._ends, entry.end)]
        return entry
