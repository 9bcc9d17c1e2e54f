"""What may be sampled next, as a set of token ids that somebody outside decides after every token.

Knows bit masks and arrays; not what the rules are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np
import numpy.typing as npt

WORD = 32

Mask = npt.NDArray[np.int32]


class TokenConstraint(Protocol):
    """Follows one sequence. Never raises."""

    def accept(self, token: int, /) -> None:
        """`token` was generated, or fed in place of what was sampled."""
        ...

    def mask(self) -> Mask | None:
        """The tokens that may follow: bit i % 32 of word i // 32 stands for id i. None: all may."""
        ...


def stacked(masks: Sequence[Mask | None], vocab_size: int) -> mx.array:
    """The masks of a batch's rows as uint32 [B, ceil(V / 32)]."""
    words = np.full((len(masks), -(-vocab_size // WORD)), -1, np.int32)
    for row, mask in zip(words, masks, strict=True):
        if mask is not None:
            row[:] = 0
            row[: len(mask)] = mask
    return mx.array(words.view(np.uint32))


def masked(logits: mx.array, words: mx.array) -> mx.array:
    """logits [B, V] with -inf at the tokens that `words` uint32 [B, ceil(V / 32)] leave out."""
    bits = mx.right_shift(words[:, :, None], mx.arange(WORD, dtype=mx.uint32)) & 1
    allowed = bits.reshape(words.shape[0], -1)[:, : logits.shape[-1]]
    return mx.where(allowed, logits, -mx.inf)
