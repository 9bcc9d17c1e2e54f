"""The line of requests that wait for slots: who is admitted next, who is refused.

First come, first served, with bounded overtaking: a much shorter request may go before longer ones,
and a request that fits into the free slots before one that doesn't fit, but nobody is overtaken
more than MAX_OVERTAKEN times. Knows keys, prompt lengths and slots; nothing of time, of turns or of
what admitted requests do.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

# How often others may be admitted before a request that came earlier.
MAX_OVERTAKEN = 4
# "Much shorter": at most this part of the other's prompt.
SHORTER = 1 / 8


@dataclass(slots=True)
class Waiting:
    """A request in the line. tokens: of its prompt; order: its place by arrival; blocked: it was
    put back and is not offered before retry(); overtaken: how often others went before it."""

    tokens: int
    slots: int
    order: int = 0
    blocked: bool = False
    overtaken: int = 0


@dataclass(slots=True)
class WaitingLine(Generic[Key]):
    """Requests in order of arrival."""

    _line: dict[Key, Waiting] = field(default_factory=dict)
    _arrivals: int = 0

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, key: object) -> bool:
        return key in self._line

    @property
    def slots(self) -> int:
        """Slots that all who wait will take."""
        return sum(request.slots for request in self._line.values())

    def add(self, key: Key, tokens: int, slots: int) -> None:
        """Puts `key` at the end."""
        self._arrivals += 1
        self._line[key] = Waiting(tokens, slots, order=self._arrivals)

    def put_back(self, key: Key, request: Waiting, *, blocked: bool) -> None:
        """Returns what take() gave to its place by arrival: the head, unless it had overtaken."""
        request.blocked = blocked
        self._line[key] = request
        in_order = sorted(self._line.items(), key=lambda item: item[1].order)
        self._line.clear()
        self._line.update(in_order)

    def remove(self, key: Key) -> None:
        """Forgets `key`; nothing happens when it isn't here."""
        self._line.pop(key, None)

    def retry(self) -> None:
        """Offers again what was put back as blocked."""
        for request in self._line.values():
            request.blocked = False

    def beyond(self, free: int) -> int:
        """How many would still wait if `free` slots were filled from the head on."""
        fitting = 0
        for request in self._line.values():
            free -= request.slots
            if request.blocked or free < 0:
                break
            fitting += 1
        return len(self._line) - fitting

    def choose(self, free: int) -> Key | None:
        """Who should take some of `free` slots now; None when nobody fits or may go."""
        chosen, fewest = None, math.inf
        for key, request in self._line.items():
            if not request.blocked and request.slots <= free:
                if request.tokens < fewest * SHORTER:
                    chosen = key
                fewest = min(fewest, request.tokens)
            if request.overtaken >= MAX_OVERTAKEN:
                break
        return chosen

    def take(self, key: Key) -> Waiting:
        """Takes `key` out of the line; all who came before it were overtaken once more."""
        taken = self._line.pop(key)
        for request in self._line.values():
            if request.order > taken.order:
                break
            request.overtaken += 1
        return taken

    def check(self) -> None:
        """Raises AssertionError where the line is out of order or its bounds are broken."""
        orders = [request.order for request in self._line.values()]
        insist(orders == sorted(set(orders)), f"the line is out of order: {orders}")
        for key, request in self._line.items():
            insist(request.slots >= 1, f"{key!r} waits for no slot")
            insist(0 <= request.overtaken <= MAX_OVERTAKEN, f"{key!r} was overtaken too often")

    def any_blocked(self) -> bool:
        """Whether somebody waits for retry()."""
        return any(request.blocked for request in self._line.values())


def insist(holds: bool, otherwise: str) -> None:
    """Raises AssertionError(otherwise), under python -O too, where `holds` is false."""
    if not holds:
        raise AssertionError(otherwise)
