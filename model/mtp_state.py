"""What the MTP head has of one sequence: keys and values of its own, and the network's hidden
vectors that it has not seen yet.

It lives beside the sequence's state and is never cached: after a prompt that the cache had, or
tokens that were decoded without it, it begins anew with what comes then, and its guesses get better
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from model.mtp import WINDOW, MtpHead


@dataclass(slots=True)
class MtpState:
    """`position`: tokens of the sequence that it goes with. hidden [1, n, H]: normed, of the last n
    of them; the head has yet to see these. keys and values [1, K, C, D]: `count` places it has
    seen, after `offset` others that it has forgotten."""

    position: int = 0
    hidden: mx.array | None = None
    keys: mx.array | None = None
    values: mx.array | None = None
    count: int = 0
    offset: int = 0

    def copy(self) -> MtpState:
        """The same arrays; they never change, so both can go on."""
        return MtpState(self.position, self.hidden, self.keys, self.values, self.count, self.offset)

    def add(self, hidden: mx.array, start: int, *, whole: bool) -> None:
        """A prompt's tokens were fed after `start` others: hidden [1, T, H], normed. `whole`: what
        was fed before them is here, else they are the end of a longer chunk."""
        fed = hidden.shape[1]
        if self.hidden is None or self.position != start or not whole:
            self.forget()
            self.hidden = mx.contiguous(hidden[:, -WINDOW:])
        else:
            joined = mx.concatenate([self.hidden, hidden], axis=1)
            if joined.shape[1] > WINDOW:
                self.forget()
            self.hidden = mx.contiguous(joined[:, -WINDOW:])
        self.position = start + fed

    def forget(self) -> None:
        """Nothing is known of what was."""
        self.hidden = self.keys = self.values = None
        self.count = self.offset = 0

    def catch_up(self, head: MtpHead, tokens: Sequence[int], most: int) -> None:
        """The head sees what it has not, all but the last, where these are more than `most`;
        `tokens` are those of the sequence."""
        if self.position != len(tokens):
            self.forget()
            self.position = len(tokens)
        if self.hidden is None or self.hidden.shape[1] <= most:
            return
        unseen = self.hidden.shape[1] - 1
        following = mx.array([list(tokens[len(tokens) - unseen :])], mx.int32)
        keys, values = self.buffers(head, self.count + unseen, self.hidden.dtype)
        counts, offsets = mx.array([self.count], mx.int32), mx.array([self.offset], mx.int32)
        _, self.keys, self.values = head(
            self.hidden[:, :-1], following, keys, values, counts, offsets, many=True
        )
        self.count += unseen
        self.hidden = mx.contiguous(self.hidden[:, -1:])
        mx.eval(self.keys, self.values, self.hidden)

    def buffers(self, head: MtpHead, capacity: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Keys and values with room for `capacity` places, of which `count` are filled."""
        config = head.config
        shape = (1, config.num_key_value_heads, capacity, config.head_dim)
        found: list[mx.array] = []
        for part in (self.keys, self.values):
            empty = mx.zeros(shape, dtype)
            if part is not None and self.count:
                filled = part[:, :, : self.count]
                empty = mx.slice_update(empty, filled, mx.array([0]), axes=(2,))
            found.append(empty)
        return found[0], found[1]

    def shrink(self) -> None:
        """Forgets all but the last WINDOW places."""
        excess = self.count - WINDOW
        if excess > 0 and self.keys is not None and self.values is not None:
            self.keys = self.keys[:, :, excess : self.count]
            self.values = self.values[:, :, excess : self.count]
            self.count, self.offset = WINDOW, self.offset + excess
