"""The ids of texts encoded before: a conversation comes back whole with every request.

Knows texts and ids only. A text always has the same ids, so nothing here can be stale.
"""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict

MAX_BYTES = 64 * 1024 * 1024
_SHORTEST = 64


class EncodingCache:
    """Bounded by bytes, least recently used first out; safe from any thread."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._ids: OrderedDict[str, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """How many bytes the texts and their ids take, about."""
        return self._held

    def get(self, text: str) -> list[int] | None:
        """The ids of `text`, None when they are not held."""
        with self._lock:
            ids = self._ids.get(text)
            if ids is None:
                return None
            self._ids.move_to_end(text)
        return ids.tolist()

    def put(self, text: str, ids: list[int]) -> None:
        """Keeps the ids of `text`, unless it is so short that encoding it anew costs no more."""
        if len(text) < _SHORTEST:
            return
        packed = array("I", ids)
        with self._lock:
            if text in self._ids:
                return
            self._ids[text] = packed
            self._held += _size(text, packed)
            while self._held > self._max_bytes:
                self._held -= _size(*self._ids.popitem(last=False))


def _size(text: str, ids: array[int]) -> int:
    return 4 * len(text) + ids.itemsize * len(ids)
