"""The sampler inside the compiled decode step: one vectorised function over the rows of a batch.

Only what a request asked for is computed: the variant (greedy, filtered, penalised) is fixed when
the step is compiled. Shapes: B rows, V vocabulary. Order: penalties and bias, temperature, top_k,
top_p, min_p, then a Gumbel-argmax draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from model.sampling import SamplingParams


class Variant(NamedTuple):
    """What a compiled step computes. `with_logits` adds the row's logits to its outputs (tests,
    scoring).
    """

    greedy: bool
    filtered: bool
    penalised: bool
    with_logits: bool = False

    @staticmethod
    def of(params: SamplingParams) -> Variant:
        return Variant(params.greedy, params.filtered, params.penalised)


@dataclass(slots=True)
class SamplerRow:
    """Arrays of one row. `constants` never change; `moving` are replaced by every step."""

    constants: dict[str, mx.array]
    moving: dict[str, mx.array]


def sampler_row(params: SamplingParams, vocab_size: int, seen: list[int]) -> SamplerRow:
    """Arrays for B = 1. `seen` are the prompt's token ids, for the repetition penalty."""
    constants: dict[str, mx.array] = {}
    moving: dict[str, mx.array] = {}
    if not params.greedy:
        constants["temperature"] = mx.array([params.temperature], mx.float32)
        moving["key"] = mx.random.key(0 if params.seed is None else params.seed)
    if params.filtered:
        constants["top_k"] = mx.array([params.top_k or vocab_size], mx.int32)
        constants["top_p"] = mx.array([params.top_p], mx.float32)
        constants["min_p"] = mx.array([params.min_p], mx.float32)
    if params.penalised:
        for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
            constants[name] = mx.array([getattr(params, name)], mx.float32)
        bias, prompt = [0.0] * vocab_size, [False] * vocab_size
        for token, value in params.logit_bias.items():
            bias[token] = value
        for token in seen:
            prompt[token] = True
        constants["bias"] = mx.array([bias], mx.float32)
        constants["in_prompt"] = mx.array([prompt], mx.bool_)
        moving["counts"] = mx.zeros((1, vocab_size), mx.int32)
    return SamplerRow(constants, moving)


def count_fed(
    moving: dict[str, mx.array], token: mx.array, generated: mx.array
) -> dict[str, mx.array]:
    """Adds the token being fed [B] to the counts; `generated` (int32, 0 or 1) is 0 for a prompt
    token.
    """
    if "counts" not in moving:
        return moving
    counts = moving["counts"]
    vocabulary = mx.arange(counts.shape[-1])
    return {**moving, "counts": counts + (vocabulary == token[:, None]) * generated}


def sample(
    logits: mx.array, variant: Variant, constants: dict[str, mx.array], moving: dict[str, mx.array]
) -> tuple[mx.array, dict[str, mx.array]]:
    """logits [B, V] float32 -> token ids [B] int32 (-1 where the logits are not finite) and the
    moved arrays.
    """
    finite = mx.isfinite(logits.max(axis=-1))
    if variant.penalised:
        logits = _penalise(logits, constants, moving)
    if variant.greedy:
        return mx.where(finite, mx.argmax(logits, axis=-1).astype(mx.int32), -1), moving
    carried, key = mx.random.split(moving["key"], 2)
    moving = {**moving, "key": carried}
    logits = logits / constants["temperature"][:, None]
    if variant.filtered:
        token = _draw_filtered(logits, constants, key)
    else:
        token = mx.argmax(logits + mx.random.gumbel(logits.shape, key=key), axis=-1)
    return mx.where(finite, token.astype(mx.int32), -1), moving


def _penalise(
    logits: mx.array, constants: dict[str, mx.array], moving: dict[str, mx.array]
) -> mx.array:
    counts = moving["counts"]
    generated = counts > 0
    repetition = constants["repetition_penalty"][:, None]
    scaled = mx.where(logits > 0, logits / repetition, logits * repetition)
    logits = mx.where(generated | constants["in_prompt"], scaled, logits)
    logits = logits - constants["presence_penalty"][:, None] * generated
    logits = logits - constants["frequency_penalty"][:, None] * counts
    return logits + constants["bias"]


def _draw_filtered(logits: mx.array, constants: dict[str, mx.array], key: mx.array) -> mx.array:
    """One sort serves the three filters; the draw happens among the sorted logits."""
    order = mx.argsort(-logits, axis=-1)
    ranked = mx.take_along_axis(logits, order, axis=-1)
    top_k = mx.arange(ranked.shape[-1]) < constants["top_k"][:, None]
    ranked = mx.where(top_k, ranked, -mx.inf)
    probabilities = mx.softmax(ranked, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    # The first token to reach top_p stays in; rank 0 always does.
    kept = (before < constants["top_p"][:, None]) & (
        probabilities >= constants["min_p"][:, None] * probabilities[:, :1]
    )
    kept = kept | (mx.arange(ranked.shape[-1]) == 0)
    drawn = mx.argmax(
        mx.where(kept, ranked, -mx.inf) + mx.random.gumbel(ranked.shape, key=key),
        axis=-1,
        keepdims=True,
    )
    return mx.take_along_axis(order, drawn, axis=-1).squeeze(-1)
