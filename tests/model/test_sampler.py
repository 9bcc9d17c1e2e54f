"""The vectorised sampler against plain numpy, and its draws against the probabilities they mean."""

from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import device  # noqa: F401 - first
from model.kernels.vocabulary_top_k import uniform_of
from model.largest import MOST
from model.sampler import Arrays, SamplerRow, Variant, count_fed, gather, gumbel, sample
from model.sampling import SamplingParams

VOCABULARY = 12
LOGITS = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.0, -2.0, -3.0, -4.0, -5.0], np.float32)


def alone(params: SamplingParams, seen: tuple[int, ...] = ()) -> tuple[Variant, Arrays, Arrays]:
    return gather([SamplerRow.of(params, VOCABULARY, seen)], VOCABULARY)


def draws(params: SamplingParams, count: int = 3000, *, seen: tuple[int, ...] = ()) -> Counter[int]:
    variant, constants, moving = alone(params)
    for token in seen:
        moving = count_fed(moving, mx.array([token]), mx.array([1]))
    step = mx.compile(lambda logits, moving: sample(logits, variant, constants, moving))
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
        variant, constants, moving = alone(params, (0,))
        moving = count_fed(moving, mx.array([0]), mx.array([0]))
        token, _ = sample(mx.array(LOGITS[None]), variant, constants, moving)
        assert token.tolist() == [winner]


def test_a_seed_repeats_and_another_differs() -> None:
    def sequence(seed: int) -> list[int]:
        params = SamplingParams(temperature=1.5, seed=seed)
        variant, constants, moving = alone(params)
        tokens: list[int] = []
        for _ in range(20):
            token, moving = sample(mx.array(LOGITS[None]), variant, constants, moving)
            tokens += token.tolist()  # type: ignore[operator]
        return tokens

    assert sequence(5) == sequence(5)
    assert sequence(5) != sequence(6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_told(bad: float, temperature: float) -> None:
    params = SamplingParams(temperature=temperature, seed=1)
    variant, constants, moving = alone(params)
    logits = LOGITS.copy()
    logits[3] = bad
    token, _ = sample(mx.array(logits[None]), variant, constants, moving)
    assert token.tolist() == [-1]


KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.2, seed=11),
    SamplingParams(temperature=1.0, top_k=3, seed=12),
    SamplingParams(temperature=1.0, top_p=0.8, min_p=0.02, seed=13),
    SamplingParams(temperature=0.0, presence_penalty=0.7, logit_bias={3: 1.0}),
    SamplingParams(temperature=0.9, repetition_penalty=1.3, frequency_penalty=0.2, seed=14),
)


@given(rows=st.lists(st.sampled_from(KINDS), min_size=1, max_size=6), steps=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_a_row_draws_the_same_in_any_batch(rows: list[SamplingParams], steps: int) -> None:
    """Mixed with any others, with the random logits that are its own."""
    logits = [
        mx.random.normal((steps, VOCABULARY), scale=2.0, key=mx.random.key(50 + i))
        for i in range(len(rows))
    ]

    def run(members: list[int]) -> list[list[int]]:
        samplers = [SamplerRow.of(rows[i], VOCABULARY, (1,)) for i in members]
        variant, constants, moving = gather(samplers, VOCABULARY)
        drawn = []
        for step in range(steps):
            batch = mx.stack([logits[i][step] for i in members])
            token, moving = sample(batch, variant, constants, moving)
            moving = count_fed(moving, token, mx.ones(len(members), mx.int32))
            drawn.append(token.tolist())
        return [list(column) for column in zip(*drawn, strict=True)]

    together = run(list(range(len(rows))))
    assert together == [run([i])[0] for i in range(len(rows))]


@given(
    rows=st.lists(
        st.builds(
            SamplingParams,
            temperature=st.sampled_from([0.0, 0.6, 1.0, 1.7]),
            top_k=st.integers(1, MOST),
            top_p=st.sampled_from([0.3, 0.95, 1.0]),
            min_p=st.sampled_from([0.0, 0.1]),
            presence_penalty=st.sampled_from([0.0, 0.8]),
            seed=st.integers(0, 99),
        ),
        min_size=1,
        max_size=4,
    ),
    vocabulary=st.sampled_from([10_000, 10_001]),
    spread=st.sampled_from([0.1, 1.0, 8.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_of_few_logits_the_same_is_drawn_as_of_all(
    rows: list[SamplingParams], vocabulary: int, spread: float, seed: int
) -> None:
    logits = mx.random.normal((len(rows), vocabulary), scale=spread, key=mx.random.key(seed))
    logits = mx.round(logits * 16) / 16  # many are equal, as after a head in bfloat16
    samplers = [SamplerRow.of(params, vocabulary, ()) for params in rows]
    variant, constants, moving = gather(samplers, vocabulary)
    assert bool(variant.few) != variant.greedy
    of_few, few_moved = sample(logits, variant, constants, moving)
    of_all, all_moved = sample(logits, variant._replace(few=0), constants, moving)
    assert of_few.tolist() == of_all.tolist()
    for name, array in all_moved.items():
        assert mx.array_equal(few_moved[name], array)


def test_as_few_logits_are_ranked_as_serve_every_row() -> None:
    def few(*top_k: int) -> int:
        return Variant.of(*(SamplingParams(seed=1, top_k=k) for k in top_k)).few

    greedy = SamplingParams(temperature=0.0)
    assert [few(1), few(20), few(32), few(33), few(MOST)] == [32, 32, 32, 64, 64]
    assert few(20, 40) == 64
    assert few(MOST + 1) == few(0) == few(20, 0) == 0
    assert Variant.of(greedy).few == 0
    assert Variant.of(greedy, SamplingParams(seed=1, top_k=20)).few == 32


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 2048, 20_001])
def test_the_noise_of_a_token_is_what_gumbel_draws_for_it(vocabulary: int) -> None:
    keys = mx.stack([mx.random.key(seed) for seed in (3, 4)])
    ids = mx.stack([mx.arange(vocabulary, dtype=mx.uint32)] * 2)[:, ::-1]
    noise = gumbel(uniform_of(ids, keys, vocabulary))
    for row in range(2):
        wanted = mx.random.gumbel((vocabulary,), key=keys[row])[::-1]
        assert mx.array_equal(noise[row], wanted)
