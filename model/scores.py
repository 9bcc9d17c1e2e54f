"""Log probabilities of tokens, as the model itself gives them: of the logits before penalties,
temperature, filters and masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from model.largest import largest

MOST = 20  # how many of the likeliest tokens are told


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Natural logarithms. top: (token id, log probability) of the likeliest tokens at the same
    place, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


Scores = tuple[mx.array, mx.array, mx.array]


def scores(logits: mx.array, tokens: mx.array) -> Scores:
    """logits float32 [N, V] and the token [N] at each place -> its log probability [N], the ids
    int32 [N, k] of the k = min(MOST, V) likeliest tokens, and their log probabilities [N, k].
    Tokens below 0 score as token 0."""
    total = mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logits, mx.maximum(tokens, 0)[:, None], axis=-1)
    ids, values, _ = largest(logits, MOST)
    return (chosen - total).squeeze(-1), ids.astype(mx.int32), values - total


def read(found: Scores, top: int) -> list[TokenScores]:
    """`scores` as numbers, with the `top` likeliest of each; waits for the device."""
    chosen, ids, values = (array.tolist() for array in found)
    return [
        TokenScores(logprob, tuple(zip(row_ids[:top], row_values[:top], strict=True)))
        for logprob, row_ids, row_values in zip(chosen, ids, values, strict=True)  # type: ignore[arg-type]
    ]
