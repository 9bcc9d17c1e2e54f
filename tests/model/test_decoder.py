"""Decoding together equals decoding alone, whoever joins and leaves, and wherever lanes part."""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import decoder as decoders
from model.decoder import Decoder, lane_size
from model.generation import Generation
from model.loading import Model, load_model
from model.sampler import SamplerRow, gather
from model.sampling import SamplingParams
from model.state import TAIL

KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=1.0, top_p=0.95, top_k=20, seed=2),
    SamplingParams(temperature=0.7, presence_penalty=1.5, min_p=0.02, seed=3),
    SamplingParams(temperature=0.0, repetition_penalty=1.2, logit_bias={400: 2.0}),
)
TOLERANCE = 1e-3  # of a score: logits agree within 1e-4, and temperatures divide them


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


def tokens_of(seed: int, count: int) -> list[int]:
    return [300 + (seed * 7919 + i * i * 31 + i * 17) % 500 for i in range(count)]


@dataclass(frozen=True)
class Sequence:
    """Joins before step `joins`, is fed `forced` after its second token, leaves after `count`."""

    seed: int
    length: int
    kind: int
    joins: int
    count: int
    forced: int = 0

    @property
    def sampling(self) -> SamplingParams:
        kind = KINDS[self.kind]
        return kind if kind.seed is None else replace(kind, seed=kind.seed + 100 * self.seed)

    @property
    def prompt(self) -> list[int]:
        return tokens_of(self.seed, self.length)

    def prefilled(self, model: Model) -> Generation:
        generation = model.generation(self.sampling)
        generation.prefill(self.prompt[:-1])
        return generation


def alone(model: Model, sequence: Sequence) -> list[int]:
    generation = sequence.prefilled(model)
    tokens = [generation.step(sequence.prompt[-1])]
    while len(tokens) < sequence.count:
        if len(tokens) == 2 and sequence.forced:
            generation.force(tokens_of(99, sequence.forced))
        tokens.append(generation.step())
    return tokens


def together(decoder: Decoder, model: Model, sequences: list[Sequence]) -> list[list[int]]:
    said: dict[Generation, list[int]] = {}
    owner: dict[Generation, Sequence] = {}
    step = 0
    while step == 0 or decoder.members or len(owner) < len(sequences):
        for sequence in sequences:
            if sequence.joins == step:
                generation = sequence.prefilled(model)
                said[generation], owner[generation] = [], sequence
                decoder.join(generation, sequence.prompt[-1])
        for generation, token in decoder.step():
            said[generation].append(token)
            if len(said[generation]) == 2 and owner[generation].forced:
                generation.force(tokens_of(99, owner[generation].forced))
            if len(said[generation]) == owner[generation].count:
                decoder.leave(generation)
        step += 1
    order = {id(sequence): tokens for sequence, tokens in zip(owner.values(), said.values())}  # noqa: B905
    return [order[id(sequence)] for sequence in sequences]


def lost_and_recovered(model: Model, sequences: list[Sequence], steps: int) -> list[list[int]]:
    """What each says, if all are lost after `steps` steps and decoded on."""
    decoder = model.decoder()
    rows = [sequence.prefilled(model) for sequence in sequences]
    said: list[list[int]] = [[] for _ in rows]
    for row, sequence in zip(rows, sequences, strict=True):
        decoder.join(row, sequence.prompt[-1])

    def step() -> None:
        for row, token in decoder.step():
            said[rows.index(row)].append(token)

    for _ in range(steps):
        step()
    decoder.abandon()
    for index, lost in enumerate(rows):
        rows[index], tokens = lost.recovered()
        rows[index].prefill(tokens)
        decoder.rejoin(rows[index])
    while any(len(s) < q.count for s, q in zip(said, sequences, strict=True)):
        step()
    return [s[: q.count] for s, q in zip(said, sequences, strict=True)]


def assert_same(model: Model, sequence: Sequence, got: list[int], wanted: list[int]) -> None:
    """Equal, or different first where two scores are as good as equal."""
    if got == wanted:
        return
    at = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b)
    assert not sequence.forced or at < 2, "compared by hand only before forced tokens"
    fed = [*sequence.prompt, *wanted[:at]]
    row = SamplerRow.of(sequence.sampling, model.config.vocab_size, sequence.prompt)
    variant, constants, moving = gather([row], model.config.vocab_size)
    assert not variant.penalised, f"{sequence}: {got} is not {wanted}"
    scores = model.logits(fed)[-1]
    if not variant.greedy:
        key = drawn = moving["key"][0]
        for _ in range(at + 1):
            key, drawn = mx.random.split(key, 2)
        noise = mx.random.gumbel((scores.size,), key=drawn)
        scores = scores / constants["temperature"][0] + noise
    assert abs(float(scores[got[at]] - scores[wanted[at]])) < TOLERANCE, sequence


@given(
    sequences=st.lists(
        st.builds(
            Sequence,
            seed=st.integers(0, 50),
            length=st.integers(1, 330),
            kind=st.integers(0, len(KINDS) - 1),
            joins=st.integers(0, 12),
            count=st.integers(1, 14),
            forced=st.integers(0, 3),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda s: s.seed,
    )
)
@settings(max_examples=15, deadline=None)
def test_joining_and_leaving_at_any_step_changes_no_token(
    model: Model, sequences: list[Sequence]
) -> None:
    for sequence, got in zip(sequences, together(model.decoder(), model, sequences), strict=True):
        assert_same(model, sequence, got, alone(model, sequence))


def test_tails_are_merged_and_rows_change_lanes(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders, "SMALLEST_LANE", 256)
    sequences = [
        Sequence(1, 200, 0, joins=0, count=TAIL + 40),
        Sequence(2, 230, 2, joins=3, count=TAIL + 60),
        Sequence(3, 900, 1, joins=5, count=30),
        Sequence(4, 250, 3, joins=TAIL + 10, count=20),
    ]
    said = together(model.decoder(), model, sequences)
    for sequence, got in zip(sequences, said, strict=True):
        assert_same(model, sequence, got, alone(model, sequence))


def test_with_alone_every_row_is_computed_as_if_it_were_alone(model: Model) -> None:
    sequences = [Sequence(i, 40 + 9 * i, i % len(KINDS), joins=i, count=12) for i in range(5)]
    said = together(model.decoder(alone=True), model, sequences)
    assert said == [alone(model, sequence) for sequence in sequences]


def test_what_a_row_leaves_with_is_the_state_of_its_tokens(model: Model) -> None:
    decoder = model.decoder()
    one, two, three = (Sequence(i, 30 + i, 0, 0, 0).prefilled(model) for i in range(3))
    for generation, seed in ((one, 0), (two, 1), (three, 2)):
        decoder.join(generation, tokens_of(seed, 30 + seed)[-1])
    for _ in range(9):
        decoder.step()
    decoder.leave(two)
    fed = two.tokens
    assert len(fed) == 31 + 8
    cold = model.generation(KINDS[0])
    cold.prefill(fed)
    for mine, other in zip(two.recurrent().recurrent, cold.recurrent().recurrent, strict=True):
        assert float(mx.abs(mine - other).max()) < 1e-4
    mine, other = two.span(0, len(fed)), cold.span(0, len(fed))
    for a, b in zip((*mine.keys, *mine.values), (*other.keys, *other.values), strict=True):
        assert float(mx.abs(a - b).max()) < 1e-4
    decoder.step()
    assert decoder.members == (one, three)


def test_a_bad_row_is_told_and_the_others_go_on(model: Model) -> None:
    sequences = [Sequence(i, 30, 0, 0, 8) for i in range(3)]
    bad = sequences[1].prefilled(model)
    bad.row.state.layers.recurrent[0] = bad.row.state.layers.recurrent[0] * mx.nan
    decoder = model.decoder()
    said: dict[Generation, list[int]] = {}
    for sequence in (sequences[0], sequences[2]):
        generation = sequence.prefilled(model)
        said[generation] = []
        decoder.join(generation, sequence.prompt[-1])
    decoder.join(bad, sequences[1].prompt[-1])
    for _ in range(9):
        for generation, token in decoder.step():
            if generation is bad:
                assert token == -1
                decoder.leave(bad)
            else:
                said[generation].append(token)
    assert list(said.values()) == [alone(model, sequences[0]), alone(model, sequences[2])]


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_lost_row_is_recovered_and_draws_what_it_would_have_drawn(
    model: Model, steps: int
) -> None:
    sequences = [Sequence(i, 30 + i, i, joins=0, count=20) for i in range(len(KINDS))]
    for sequence, said in zip(sequences, lost_and_recovered(model, sequences, steps), strict=True):
        assert_same(model, sequence, said, alone(model, sequence))


def test_abandoning_frees_everybody(model: Model) -> None:
    decoder = model.decoder()
    members = [Sequence(i, 20, 0, 0, 0).prefilled(model) for i in range(2)]
    for generation in members:
        decoder.join(generation, 301)
    decoder.step()
    assert decoder.abandon() == members
    assert decoder.members == ()
    assert list(decoder.step()) == []


@given(tokens=st.integers(1, 300_000))
def test_lanes_are_at_most_four_times_too_large(tokens: int) -> None:
    size = lane_size(tokens)
    assert tokens <= size
    assert size == decoders.SMALLEST_LANE or size < 4 * tokens
