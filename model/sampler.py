"""The sampler inside the compiled decode step: one vectorised function over the rows of a batch.

Only what some row asked for is computed: the variant (greedy, filtered, penalised) is fixed when
the step is compiled, and rows that asked for less carry values that change nothing. A row's draws
depend on its own key and its own logits alone, so it samples the same in any batch. Order:
penalties and bias, temperature, top_k, top_p, min_p, then a Gumbel-argmax draw. Where every row
that draws has a small top_k, the few largest logits are found in one pass and the rest is done with
these; the noise belongs to the token, so the draws are the same. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from model.kernels import VocabularyTopK
from model.kernels.vocabulary_top_k import vocabulary_top_k
from model.largest import MOST
from model.sampling import SamplingParams

Arrays = dict[str, mx.array]
BY_TOKEN = ("bias", "in_prompt", "counts")  # the arrays [B, V]
FEW = (32, MOST)  # sizes of the few, so that not every top_k has a step compiled of its own


class Variant(NamedTuple):
    """What a compiled step computes. `mixed`: some rows are greedy, others are not. `few`: of how
    many of the largest logits a token can be drawn, 0 for all. `with_logits` adds the rows' logits
    to its outputs (tests, scoring).
    """

    greedy: bool
    filtered: bool
    penalised: bool
    mixed: bool = False
    few: int = 0
    with_logits: bool = False

    @staticmethod
    def of(*rows: SamplingParams) -> Variant:
        """The least that serves all of `rows`."""
        drawing = [row for row in rows if not row.greedy]
        most = max((row.top_k or FEW[-1] + 1 for row in drawing), default=0)
        return Variant(
            not drawing,
            any(row.filtered for row in rows),
            any(row.penalised for row in rows),
            mixed=0 < len(drawing) < len(rows),
            few=next((few for few in FEW if 0 < most <= few), 0),
        )


@dataclass(slots=True)
class SamplerRow:
    """One sequence's sampler. `key` [1, 2] is None for a greedy row; `counts` int32, `in_prompt`
    bool and `bias` float32, all [1, V], are None for a row without penalties.
    """

    params: SamplingParams
    key: mx.array | None = None
    counts: mx.array | None = None
    in_prompt: mx.array | None = None
    bias: mx.array | None = None

    @staticmethod
    def of(params: SamplingParams, vocab_size: int, seen: Iterable[int]) -> SamplerRow:
        """A fresh row. `seen` are the prompt's token ids, for the repetition penalty."""
        row = SamplerRow(params)
        if not params.greedy:
            row.key = mx.random.key(0 if params.seed is None else params.seed)[None]
        if params.penalised:
            bias, prompt = [0.0] * vocab_size, [False] * vocab_size
            for token, value in params.logit_bias.items():
                bias[token] = value
            for token in seen:
                prompt[token] = True
            row.bias = mx.array([bias], mx.float32)
            row.in_prompt = mx.array([prompt], mx.bool_)
            row.counts = mx.zeros((1, vocab_size), mx.int32)
        return row

    def replay(self, generated: Sequence[int], *, draws: int) -> None:
        """Brings a fresh row to where it was after `draws` draws and `generated` tokens fed."""
        if self.key is not None:
            for _ in range(draws):
                self.key = mx.random.split(self.key[0], 2)[:1]
        if self.counts is not None:
            for token in generated:
                fed = mx.array([token]), mx.array([1])
                self.counts = count_fed({"counts": self.counts}, *fed)["counts"]

    def take(self, moving: Arrays, index: int) -> None:
        """Takes back what the steps of a batch moved."""
        if self.key is not None:
            self.key = moving["key"][index : index + 1]
        if self.counts is not None:
            self.counts = moving["counts"][index : index + 1]


def gather(rows: Sequence[SamplerRow], vocab_size: int) -> tuple[Variant, Arrays, Arrays]:
    """The rows as one batch: its variant, the arrays that stay and those that steps replace."""
    variant = Variant.of(*(row.params for row in rows))
    params = [row.params for row in rows]
    constants: Arrays = {}
    moving: Arrays = {}

    def floats(name: str) -> mx.array:
        return mx.array([getattr(p, name) for p in params], mx.float32)

    if not variant.greedy:
        constants["temperature"] = mx.array([p.temperature or 1.0 for p in params], mx.float32)
        none = mx.zeros((1, 2), mx.uint32)
        moving["key"] = mx.concatenate([none if row.key is None else row.key for row in rows])
    if variant.mixed:
        constants["greedy"] = mx.array([p.greedy for p in params])
    if variant.filtered:
        constants["top_k"] = mx.array([p.top_k or vocab_size for p in params], mx.int32)
        constants["top_p"], constants["min_p"] = floats("top_p"), floats("min_p")
    if variant.penalised:
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
            constants[name] = floats(name)
        for name, dtype in (("bias", mx.float32), ("in_prompt", mx.bool_), ("counts", mx.int32)):
            blank = mx.zeros((1, vocab_size), dtype)
            parts = [getattr(row, name) for row in rows]
            joined = mx.concatenate([blank if part is None else part for part in parts])
            (moving if name == "counts" else constants)[name] = joined
    return variant, constants, moving


def count_fed(moving: Arrays, token: mx.array, generated: mx.array) -> Arrays:
    """Adds the tokens being fed [B] to the counts; `generated` [B] (int32, 0 or 1) is 0 where the
    token belongs to the prompt.
    """
    if "counts" not in moving:
        return moving
    counts = moving["counts"]
    vocabulary = mx.arange(counts.shape[-1])
    fed = (vocabulary == token[:, None]) * generated[:, None]
    return {**moving, "counts": counts + fed}


def sample(
    logits: mx.array,
    variant: Variant,
    constants: Arrays,
    moving: Arrays,
    top_k: VocabularyTopK = vocabulary_top_k,
) -> tuple[mx.array, Arrays]:
    """logits [B, V] float32 -> token ids [B] int32 (-1 where the logits are not finite) and the
    moved arrays. `top_k` finds the few largest.
    """
    if variant.penalised:
        logits = _penalise(logits, constants, moving)
    if variant.greedy:
        return _told(mx.argmax(logits, axis=-1), logits.max(axis=-1)), moving
    keys = mx.vmap(lambda key: mx.random.split(key, 2))(moving["key"])  # [B, 2, 2]
    moving = {**moving, "key": keys[:, 0]}
    if variant.few:
        token, best, highest = _draw_of_few(top_k(logits, keys[:, 1], variant.few), constants)
    else:
        token, best, highest = _draw_of_all(logits, variant, constants, keys[:, 1])
    if variant.mixed:
        token = mx.where(constants["greedy"], best, token)
    return _told(token, highest), moving


def _told(token: mx.array, highest: mx.array) -> mx.array:
    """`token`, int32, or -1 where the highest logit is not finite."""
    return mx.where(mx.isfinite(highest), token.astype(mx.int32), -1)


def _penalise(logits: mx.array, constants: Arrays, moving: Arrays) -> mx.array:
    counts = moving["counts"]
    generated = counts > 0
    repetition = constants["repetition_penalty"][:, None]
    scaled = mx.where(logits > 0, logits / repetition, logits * repetition)
    logits = mx.where(generated | constants["in_prompt"], scaled, logits)
    logits = logits - constants["presence_penalty"][:, None] * generated
    logits = logits - constants["frequency_penalty"][:, None] * counts
    return logits + constants["bias"]


def _draw_of_few(
    few: tuple[mx.array, mx.array, mx.array, mx.array], constants: Arrays
) -> tuple[mx.array, mx.array, mx.array]:
    """Of the few largest logits (see vocabulary_top_k): tokens drawn, those with the largest logit,
    and it, all [B]."""
    ids, ranked, highest, uniform = few
    place = _draw_ranked(ranked, constants, gumbel(uniform))
    return mx.take_along_axis(ids, place, axis=-1).squeeze(-1), ids[:, 0], highest


def gumbel(uniform: mx.array) -> mx.array:
    """The noise that mx.random.gumbel makes of these numbers in [0, 1)."""
    return -mx.log(-mx.log(uniform))


def _draw_of_all(
    logits: mx.array, variant: Variant, constants: Arrays, keys: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """The same of all logits; one sort serves the filters."""
    noise = mx.vmap(lambda key: mx.random.gumbel((logits.shape[-1],), key=key))(keys)
    best, highest = mx.argmax(logits, axis=-1), logits.max(axis=-1)
    if not variant.filtered:
        scaled = logits / constants["temperature"][:, None]
        return mx.argmax(scaled + noise, axis=-1), best, highest
    ids = mx.argsort(-logits, axis=-1)
    ranked, noise = (mx.take_along_axis(x, ids, axis=-1) for x in (logits, noise))
    place = _draw_ranked(ranked, constants, noise)
    return mx.take_along_axis(ids, place, axis=-1).squeeze(-1), best, highest


def _draw_ranked(ranked: mx.array, constants: Arrays, noise: mx.array) -> mx.array:
    """The place [B, 1] of a token among logits in descending order, drawn after the three filters;
    each has the noise of its own token, so that filters that keep everything change nothing."""
    temperature = constants["temperature"][:, None]
    rank, first = _ranks(ranked.shape[-1]), ranked[:, :1]
    in_top_k = rank < constants["top_k"][:, None]
    # Probabilities, as parts of the first one's.
    shares = mx.where(in_top_k, mx.exp((ranked - first) / temperature), 0.0)
    sums = mx.cumsum(shares, axis=-1)
    top_p = constants["top_p"][:, None]
    # The first token to reach top_p stays in; rank 0 always does. Rounding may take the sum of all
    # before the last ones to the whole, so 1 is off by itself.
    in_top_p = (sums - shares < top_p * sums[:, -1:]) | (top_p >= 1)
    in_min_p = shares >= constants["min_p"][:, None]
    kept = (shares > 0) & in_top_p & in_min_p | (rank == 0)
    drawn = mx.where(kept, ranked / temperature + noise, -mx.inf)
    return mx.argmax(drawn, axis=-1, keepdims=True)


@cache
def _ranks(count: int) -> mx.array:
    """0, 1, ... as data: a step would count them anew each time."""
    return mx.array(np.arange(count, dtype=np.int32))
