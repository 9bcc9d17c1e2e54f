"""The output head cut down to the tokens that guesses are made of, so that a guess does not read
all of it.

Byte-level BPE numbers its tokens as they were merged, frequent ones first; a guess is one of those,
or a control token. What is never guessed is still said: guesses are verified by the whole head.
Shapes: V vocabulary, D tokens of it that may be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx

from model.quantized import AnyLinear

FREQUENT = 65_536  # tokens, control tokens aside


def guessed_of(vocab_size: int, controls: int, frequent: int = FREQUENT) -> int:
    """How many tokens of a vocabulary are guessed; all where the part would not be half or less."""
    part = frequent + controls
    return part if 2 * part <= vocab_size else vocab_size


@dataclass(frozen=True, slots=True)
class DraftHead:
    """frequent: the head's first outputs, in its own memory; controls: the few others, copied. ids
    int32 [D]: the token of each output."""

    frequent: AnyLinear
    controls: AnyLinear | None
    ids: mx.array

    @staticmethod
    def of(
        head: AnyLinear, vocab_size: int, controls: Iterable[int], frequent: int = FREQUENT
    ) -> DraftHead | None:
        """The first `frequent` tokens and the `controls` after them; None where that is not half of
        the vocabulary or less."""
        others = sorted({token for token in controls if frequent <= token < vocab_size})
        if guessed_of(vocab_size, len(others), frequent) == vocab_size:
            return None
        ids = mx.concatenate([mx.arange(frequent), mx.array(others, mx.int32)]).astype(mx.int32)
        mx.eval(ids)
        of_controls = head.outputs(mx.array(others, mx.int32)) if others else None
        return DraftHead(head.outputs(slice(frequent)), of_controls, ids)

    def __call__(self, normed: mx.array) -> mx.array:
        """normed [..., hidden] -> float32 logits [..., D]."""
        logits = self.frequent(normed)
        if self.controls is not None:
            logits = mx.concatenate([logits, self.controls(normed)], axis=-1)
        return logits.astype(mx.float32)

    def cut(self, by_token: mx.array) -> mx.array:
        """[B, V] -> [B, D]."""
        return mx.take(by_token, self.ids, axis=-1)

    def tokens(self, outputs: mx.array) -> mx.array:
        """Numbers of outputs [B] int32 -> their tokens."""
        return self.ids[outputs]
