"""The vectorised sampler against plain numpy, and its draws against the probabilities they mean."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from model import device  # noqa: F401 - first
from model.sampler import Variant, count_fed, sample, sampler_row
from model.sampling import SamplingParams

VOCABULARY = 12
LOGITS = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.0, -2.0, -3.0, -4.0, -5.0], np.float32)


def draws(params: SamplingParams, count: int = 3000, *, seen: tuple[int, ...] = ()) -> Counter[int]:
    row = sampler_row(params, VOCABULARY, [])
    moving = row.moving
    for token in seen:
        moving = count_fed(moving, mx.array([token]), mx.array(1))
    step = mx.compile(
        lambda logits, moving: sample(logits, Variant.of(params), row.constants, moving)
    )
    tokens = []
    for _ in range(count):
        token, moving = step(mx.array(LOGITS[None]), moving)
        tokens.append(token)
    return Counter(mx.concatenate(tokens).tolist())  # type: ignore[arg-type]


def expected(params: SamplingParams, logits: np.ndarray = LOGITS) -> np.ndarray:
    """The filters one by one, in the documented order."""
    scaled = logits / params.temperature
    order = np.argsort(-scaled, kind="stable")
    kept = np.zeros(VOCABULARY, bool)
    top = order[: params.top_k or VOCABULARY]
    probabilities = np.exp(scaled - scaled.max())
    probabilities[[i for i in range(VOCABULARY) if i not in top]] = 0
    probabilities /= probabilities.sum()
    mass = 0.0
    for token in top:
        if mass < params.top_p:
            kept[token] = True
        mass += probabilities[token]
    kept &= probabilities >= params.min_p * probabilities.max()
    probabilities = np.where(kept, probabilities, 0)
    return probabilities / probabilities.sum()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0, seed=1),
        SamplingParams(temperature=0.5, seed=2),
        SamplingParams(temperature=1.3, top_k=4, seed=3),
        SamplingParams(temperature=1.0, top_p=0.7, seed=4),
        SamplingParams(temperature=1.0, min_p=0.3, seed=5),
        SamplingParams(temperature=0.9, top_k=6, top_p=0.9, min_p=0.05, seed=6),
    ],
)
def test_draws_follow_the_filtered_distribution(params: SamplingParams) -> None:
    count = 3000
    probabilities = expected(params)
    counted = draws(params, count)
    for token in range(VOCABULARY):
        p = probabilities[token]
        # Five standard deviations; a token that the filters drop never comes.
        assert abs(counted[token] - count * p) <= 5 * np.sqrt(count * p * (1 - p))


def test_greedy_takes_the_largest_logit() -> None:
    assert draws(SamplingParams(temperature=0.0), 3) == {0: 3}


def test_top_p_of_almost_nothing_keeps_one_token() -> None:
    assert draws(SamplingParams(temperature=1.0, top_p=1e-6, seed=9), 50) == {0: 50}


@pytest.mark.parametrize(
    ("params", "winner"),
    [
        (SamplingParams(temperature=0.0, presence_penalty=0.6), 1),
        (SamplingParams(temperature=0.0, presence_penalty=0.4), 0),
        (SamplingParams(temperature=0.0, frequency_penalty=0.3), 1),
        (SamplingParams(temperature=0.0, frequency_penalty=0.2), 0),
        (SamplingParams(temperature=0.0, repetition_penalty=1.5), 1),
        (SamplingParams(temperature=0.0, logit_bias={7: 9.0}), 7),
        (SamplingParams(temperature=0.0, logit_bias={0: -100.0}), 1),
    ],
)
def test_penalties_count_what_was_generated(params: SamplingParams, winner: int) -> None:
    assert draws(params, 1, seen=(0, 0)) == {winner: 1}


def test_prompt_tokens_count_for_repetition_only() -> None:
    for params, winner in (
        (SamplingParams(temperature=0.0, repetition_penalty=1.5), 1),
        (SamplingParams(temperature=0.0, presence_penalty=2.0), 0),
    ):
        row = sampler_row(params, VOCABULARY, [0])
        moving = count_fed(row.moving, mx.array([0]), mx.array(0))
        token, _ = sample(mx.array(LOGITS[None]), Variant.of(params), row.constants, moving)
        assert token.tolist() == [winner]


def test_a_seed_repeats_and_another_differs() -> None:
    def sequence(seed: int) -> list[int]:
        params = SamplingParams(temperature=1.5, seed=seed)
        row = sampler_row(params, VOCABULARY, [])
        moving, tokens = row.moving, []
        for _ in range(20):
            token, moving = sample(
                mx.array(LOGITS[None]), Variant.of(params), row.constants, moving
            )
            tokens += token.tolist()  # type: ignore[operator]
        return tokens

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_told(bad: float, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1)
    row = sampler_row(params, VOCABULARY, [])
    logits = LOGITS.copy()
    logits[3] = bad
    token, _ = sample(mx.array(logits[None]), Variant.of(params), row.constants, row.moving)
    assert token.tolist() == [-1]
