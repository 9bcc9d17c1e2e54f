"""Random draws that respect the held-out split.

A payload (a pair of summands, a tuple of words, a question form with its country) belongs to the
held-out side by a hash of its own text, so that training and evaluation can never share one,
whatever the seed.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "heldout"]
HELD_OUT_SHARE = 10  # one payload in this many is never trained on


def is_held_out(kind: str, key: object) -> bool:
    """Whether the payload `key` of a skill `kind` is kept for evaluation."""
    digest = hashlib.blake2b(f"{kind}:{key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_SHARE == 0


class Draw:
    """A seeded random source for one dialogue of one split."""

    def __init__(self, split: Split, seed: int) -> None:
        self.split: Split = split
        self.rng = random.Random(f"{split}:{seed}")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer of [low, high], both ends included."""
        return self.rng.randint(low, high)

    def choice(self, items: Sequence[T]) -> T:
        return items[int(self.rng.random() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        return self.rng.sample(items, count)

    def payload(self, kind: str, make: Callable[[], T]) -> T:
        """Draws `make()` until the payload lies on this dialogue's side of the split."""
        wanted = self.split == "heldout"
        for _ in range(2000):
            value = make()
            if is_held_out(kind, value) == wanted:
                return value
        raise RuntimeError(f"no {self.split} payload of kind {kind!r} in 2000 draws")
