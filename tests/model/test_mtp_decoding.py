"""With guesses equals without, token for token, whoever joins, leaves, is forced or ruled."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.constraint import WORD, Mask
from model.decoder import Decoder
from model.generation import Generation
from model.loading import DEMO_FOLDER, Model, load_model
from model.mtp_lane import MtpLane
from model.sampling import SamplingParams
from model.state import TAIL
from tests.model.test_decoder import (
    KINDS,
    Sequence,
    assert_same,
    lost_and_recovered,
    together,
    tokens_of,
)


@pytest.fixture(scope="module")
def plain() -> Model:
    return load_model(DEMO_FOLDER, mtp_depth=0)


@pytest.fixture(scope="module", params=[1, 3])
def guessing(request: pytest.FixtureRequest) -> Model:
    return load_model(DEMO_FOLDER, mtp_depth=request.param)


@pytest.fixture(scope="module")
def one_ahead() -> Model:
    return load_model(DEMO_FOLDER, mtp_depth=1)


def alone(model: Model, sequence: Sequence) -> list[int]:
    generation = sequence.prefilled(model)
    tokens = [generation.step(sequence.prompt[-1])]
    while len(tokens) < sequence.count:
        if len(tokens) == 2 and sequence.forced:
            generation.force(tokens_of(99, sequence.forced))
        tokens.append(generation.step())
    return tokens


def accepted(generation: Generation) -> int:
    return sum(right for _, right in generation.row.outcomes)


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_alone_and_over_merged_tails(plain: Model, guessing: Model, kind: int) -> None:
    sequence = Sequence(kind, 40, kind, 0, TAIL + 30)
    generation = sequence.prefilled(guessing)
    tokens = [generation.step(sequence.prompt[-1])]
    while len(tokens) < sequence.count:
        tokens.append(generation.step())
    assert isinstance(generation.lane, MtpLane)
    assert accepted(generation) > 0
    wanted = alone(plain, sequence)
    if not sequence.sampling.penalised or tokens == wanted:
        assert_same(plain, sequence, tokens, wanted)
    else:
        pytest.fail(f"{tokens} is not {wanted}")


SEQUENCES = st.lists(
    st.builds(
        Sequence,
        seed=st.integers(0, 50),
        length=st.integers(1, 330),
        kind=st.integers(0, len(KINDS) - 1),
        joins=st.integers(0, 8),
        count=st.integers(1, 20),
        forced=st.integers(0, 6),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda s: s.seed,
)


@given(sequences=SEQUENCES)
@settings(max_examples=6, deadline=None)
def test_joining_and_leaving_at_any_step_changes_no_token(
    plain: Model, one_ahead: Model, sequences: list[Sequence]
) -> None:
    said = together(one_ahead.decoder(), one_ahead, sequences)
    for sequence, got in zip(sequences, said, strict=True):
        assert_same(plain, sequence, got[: sequence.count], alone(plain, sequence))


@pytest.mark.parametrize("taken", range(1, 9))
def test_who_leaves_in_the_midst_of_a_step_has_the_state_of_its_tokens(
    plain: Model, guessing: Model, taken: int
) -> None:
    """As after a stop string or the last token allowed: what comes after it is not fed."""
    sequence = Sequence(4, 30, 0, 0, taken)
    decoder = guessing.decoder()
    one, other = sequence.prefilled(guessing), Sequence(5, 50, 1, 0, 0).prefilled(guessing)
    decoder.join(one, sequence.prompt[-1])
    decoder.join(other, tokens_of(5, 50)[-1])
    said: list[int] = []
    while len(said) < taken:
        for generation, token in decoder.step():
            if generation is one:
                said.append(token)
                if len(said) == taken:
                    decoder.leave(one)
                    one.settle()
    assert one.tokens == [*sequence.prompt, *said]
    cold = plain.generation(KINDS[0])
    cold.prefill(one.tokens)
    pairs = list(zip(one.recurrent().recurrent, cold.recurrent().recurrent, strict=True))
    mine, theirs = one.span(0, one.position), cold.span(0, one.position)
    pairs += zip((*mine.keys, *mine.values), (*theirs.keys, *theirs.values), strict=True)
    assert all(float(mx.abs(a - b).max()) < 1e-4 for a, b in pairs)
    # The other one goes on as if nothing had been.
    rest = [token for _ in range(6) for generation, token in decoder.step()]
    assert len(rest) >= 6


def test_with_alone_nothing_is_guessed(one_ahead: Model) -> None:
    decoder = one_ahead.decoder(alone=True)
    generation = Sequence(1, 20, 0, 0, 0).prefilled(one_ahead)
    decoder.join(generation, 301)
    for _ in range(3):
        decoder.step()
    assert not isinstance(generation.lane, MtpLane)


def with_scores(model: Model, sequence: Sequence, count: int) -> list[tuple[int, Any]]:
    decoder = model.decoder()
    decoder.join(generation := sequence.prefilled(model), sequence.prompt[-1], top=3)
    found: list[tuple[int, Any]] = []
    while len(found) < count:
        found += [(token, generation.scored) for _, token in decoder.step()]
    return found[:count]


@pytest.mark.parametrize("kind", [0, 2])
def test_scores_are_those_of_each_token(plain: Model, guessing: Model, kind: int) -> None:
    sequence = Sequence(7, 25, kind, 0, 0)
    ours, wanted = (with_scores(m, sequence, 25) for m in (guessing, plain))
    for (token, scored), (same, other) in zip(ours, wanted, strict=True):
        assert token == same
        assert scored.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert len(scored.top) == 3
        assert [p for _, p in scored.top] == pytest.approx([p for _, p in other.top], abs=1e-3)


@dataclass
class Even:
    """Sleeps until `after` tokens were accepted, then allows every second id only, for 5 tokens."""

    after: int
    seen: int = 0

    def accept(self, token: int) -> None:
        if self.seen > self.after and self.seen <= self.after + 5:
            assert token % 2 == 0
        self.seen += 1

    def mask(self) -> Mask | None:
        if not self.after < self.seen <= self.after + 5:
            return None
        return np.full(2048 // WORD, 0x55555555, np.int32)


def ruled(model: Model, after: int, sampling: SamplingParams) -> tuple[list[int], set[bool]]:
    decoder: Decoder = model.decoder()
    generation = model.generation(sampling)
    prompt = tokens_of(8, 30)
    generation.prefill(prompt[:-1])
    decoder.join(generation, prompt[-1], constraint=Even(after))
    said: list[int] = []
    kinds: set[bool] = set()
    while len(said) < after + 20:
        said += [token for _, token in decoder.step()]
        kinds.add(isinstance(generation.lane, MtpLane))
    return said[: after + 20], kinds


@pytest.mark.parametrize("after", [1, 2, 5, 10])
@pytest.mark.parametrize("kind", [0, 2])
def test_rules_hold_from_the_token_they_wake_at(
    plain: Model, guessing: Model, after: int, kind: int
) -> None:
    sampling = KINDS[kind]
    said, kinds = ruled(guessing, after, sampling)
    assert kinds == {True, False}
    assert said == ruled(plain, after, sampling)[0]


def test_draws_have_the_distribution_of_the_model(one_ahead: Model) -> None:
    """The third token after a prompt, over many seeds, against the product of its probabilities."""
    prompt, seeds = tokens_of(12, 20), 300
    counts: dict[int, int] = {}
    decoder = one_ahead.decoder()
    base = one_ahead.generation(KINDS[0])
    base.prefill(prompt[:-1])
    for start in range(0, seeds, 50):
        rows = [
            base.fork(SamplingParams(temperature=1.0, top_k=4, seed=start + i)) for i in range(50)
        ]
        said: dict[Generation, list[int]] = {row: [] for row in rows}
        for row in rows:
            decoder.join(row, prompt[-1])
        while decoder.members:
            for row, token in decoder.step():
                said[row].append(token)
                if len(said[row]) == 2:
                    counts[token] = counts.get(token, 0) + 1
                    decoder.leave(row)
    expected: dict[int, float] = {}
    first = _drawn_from(one_ahead, prompt)
    for token, p in first.items():
        for second, q in _drawn_from(one_ahead, [*prompt, token]).items():
            expected[second] = expected.get(second, 0.0) + p * q
    assert set(counts) <= set(expected)
    bins = [(counts.get(token, 0), seeds * p) for token, p in expected.items()]
    large = [(o, e) for o, e in bins if e >= 5]
    rest = [(o, e) for o, e in bins if e < 5]
    large.append((sum(o for o, _ in rest), max(sum(e for _, e in rest), 1e-3)))
    chi = sum((o - e) ** 2 / e for o, e in large if e >= 1)
    degrees = len(large) - 1
    assert degrees >= 2
    assert chi < degrees + 5 * (2 * degrees) ** 0.5


def _drawn_from(model: Model, tokens: list[int]) -> dict[int, float]:
    logits = np.array(model.logits(tokens)[-1], np.float64)
    best = np.argsort(-logits)[:4]
    p = np.exp(logits[best] - logits[best[0]])
    return dict(zip(best.tolist(), (p / p.sum()).tolist(), strict=True))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_lost_rows_are_recovered_and_draw_what_they_would_have_drawn(
    plain: Model, one_ahead: Model, steps: int
) -> None:
    sequences = [Sequence(i, 30 + i, i, joins=0, count=20) for i in range(3)]
    said = lost_and_recovered(one_ahead, sequences, steps)
    for sequence, tokens in zip(sequences, said, strict=True):
        assert_same(plain, sequence, tokens, alone(plain, sequence))


def test_rows_that_guess_go_on_beside_rows_that_do_not(plain: Model, one_ahead: Model) -> None:
    sequences = [Sequence(i, 30 + i, 2 * i, joins=0, count=20) for i in range(2)]
    decoder = one_ahead.decoder()
    strict = one_ahead.generation(KINDS[0])
    prompt = tokens_of(8, 30)
    strict.prefill(prompt[:-1])
    decoder.join(strict, prompt[-1], constraint=Even(after=0))
    rows = [sequence.prefilled(one_ahead) for sequence in sequences]
    said: dict[Generation, list[int]] = {row: [] for row in (strict, *rows)}
    for row, sequence in zip(rows, sequences, strict=True):
        decoder.join(row, sequence.prompt[-1])
    lanes: set[tuple[bool, ...]] = set()
    while min(map(len, said.values())) < 20:
        for row, token in decoder.step():
            said[row].append(token)
        lanes.add(tuple(isinstance(row.lane, MtpLane) for row in said))
    assert (False, True, True) in lanes
    for sequence, row in zip(sequences, rows, strict=True):
        assert_same(plain, sequence, said[row][:20], alone(plain, sequence))
    assert said[strict][:20] == ruled(plain, 0, KINDS[0])[0][:20]


class Clock:
    """Read at the start and at the end of a step: one takes 50 ms, and 1 ms lies between two."""

    def __init__(self) -> None:
        self.now, self.steps = 0.0, cycle((0.001, 0.050))

    def __call__(self) -> float:
        self.now += next(self.steps)
        return self.now


def test_only_the_time_of_steps_is_told_to_the_policy(one_ahead: Model) -> None:
    assert one_ahead.steps.mtp is not None
    clock, costs = Clock(), one_ahead.steps.mtp.policy.costs
    costs._seconds.clear()
    decoder = Decoder(one_ahead.steps, clock=clock)
    generation = Sequence(1, 20, 0, 0, 0).prefilled(one_ahead)
    decoder.join(generation, 301)
    for _ in range(4):
        decoder.step()
    before = dict(costs._seconds)
    assert before == {(1, 2): pytest.approx(0.051)}
    clock.now += 60  # a prompt
    decoder.step()
    assert costs._seconds == before
    costs._seconds.clear()
