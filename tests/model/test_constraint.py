"""Rows whose next token somebody has a say in: only what is allowed is sampled, and nobody else in
the batch notices."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.constraint import Mask, masked, stacked
from model.generation import Generation
from model.loading import Model, load_model
from model.sampling import SamplingParams

KINDS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=1.0, top_p=0.95, top_k=20, seed=2),
    SamplingParams(temperature=0.7, presence_penalty=1.5, min_p=0.02, seed=3),
)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


def mask_of(allowed: set[int], vocab_size: int) -> Mask:
    words = np.zeros(-(-vocab_size // 32), np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << token % 32)
    return words.view(np.int32)


@dataclass
class Whim:
    """Allows a few tokens, other ones each time, and anything where the sequence's seed says so."""

    seed: int
    vocab_size: int
    accepted: list[int] = field(default_factory=list)

    def allowed(self, at: int) -> set[int] | None:
        draw = random.Random(f"{self.seed} {at}")
        if draw.random() < 0.4:
            return None
        return {draw.randrange(self.vocab_size) for _ in range(draw.choice([1, 2, 40]))}

    def accept(self, token: int) -> None:
        self.accepted.append(token)

    def mask(self) -> Mask | None:
        allowed = self.allowed(len(self.accepted))
        return None if allowed is None else mask_of(allowed, self.vocab_size)


@given(st.lists(st.none() | st.sets(st.integers(0, 99), min_size=1), min_size=1, max_size=4))
def test_a_mask_leaves_exactly_its_tokens(rows: list[set[int] | None]) -> None:
    masks = [None if row is None else mask_of(row, 100) for row in rows]
    logits = masked(mx.zeros((len(rows), 100)), stacked(masks, 100))
    for row, kept in zip(rows, logits.tolist(), strict=True):  # type: ignore[arg-type]
        everything = set(range(100))
        assert {i for i, value in enumerate(kept) if value == 0} == (row or everything)


@dataclass(frozen=True)
class Sequence:
    seed: int
    length: int
    kind: int
    joins: int
    count: int
    ruled: bool
    top: int | None
    forced: int

    @property
    def prompt(self) -> list[int]:
        return [300 + (self.seed * 7919 + i * i * 31 + i * 17) % 500 for i in range(self.length)]

    def start(self, model: Model) -> tuple[Generation, Whim | None]:
        kind = KINDS[self.kind]
        kind = kind if kind.seed is None else replace(kind, seed=kind.seed + 100 * self.seed)
        generation = model.generation(kind)
        generation.prefill(self.prompt[:-1])
        return generation, Whim(self.seed, model.config.vocab_size) if self.ruled else None


SEQUENCES = st.lists(
    st.builds(
        Sequence,
        seed=st.integers(0, 50),
        length=st.integers(1, 40),
        kind=st.integers(0, len(KINDS) - 1),
        joins=st.integers(0, 8),
        count=st.integers(1, 12),
        ruled=st.booleans(),
        top=st.none() | st.integers(0, 20),
        forced=st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda s: s.seed,
)


def run(
    model: Model, sequences: list[Sequence]
) -> dict[int, tuple[list[int], Whim | None, list[float]]]:
    """What each said in company, its constraint, and the log probabilities it was told."""
    decoder = model.decoder()
    done: dict[int, tuple[list[int], Whim | None, list[float]]] = {}
    waiting = sorted(sequences, key=lambda s: s.joins)
    owner: dict[Generation, tuple[Sequence, Whim | None]] = {}
    step = 0
    while waiting or decoder.members:
        while waiting and waiting[0].joins <= step:
            sequence = waiting.pop(0)
            generation, whim = sequence.start(model)
            owner[generation] = sequence, whim
            done[sequence.seed] = [], whim, []
            decoder.join(generation, sequence.prompt[-1], constraint=whim, top=sequence.top)
        for generation, token in decoder.step():
            sequence, whim = owner[generation]
            said, _, told = done[sequence.seed]
            said.append(token)
            if sequence.top is not None:
                assert generation.scored is not None
                assert len(generation.scored.top) == sequence.top
                told.append(generation.scored.logprob)
            if len(said) == 2:
                generation.force(sequence.prompt[:1] * sequence.forced)
            if len(said) == sequence.count:
                decoder.leave(generation)
        step += 1
    return done


@given(sequences=SEQUENCES)
@settings(max_examples=15, deadline=None)
def test_only_what_is_allowed_is_sampled_whoever_else_decodes(
    model: Model, sequences: list[Sequence]
) -> None:
    together = run(model, sequences)
    for sequence in sequences:
        said, whim, told = together[sequence.seed]
        fed = [*said[:2], *sequence.prompt[:1] * sequence.forced, *said[2:]]
        if sequence.count <= 2:
            fed = said
        if whim is not None:
            # It has seen all that was fed, once and in order, and was obeyed where it spoke.
            assert whim.accepted[: len(fed)] == fed
            for at, token in enumerate(fed):
                forced = len(said) > 2 and 2 <= at < 2 + sequence.forced
                allowed = whim.allowed(at)
                assert forced or allowed is None or token in allowed
        alone = run(model, [replace(sequence, joins=0)])[sequence.seed]
        logits = model.logits([*sequence.prompt, *fed])
        if KINDS[sequence.kind].greedy:
            for a, b in zip(said, alone[0], strict=True):
                if a != b:
                    break
            else:
                assert told == pytest.approx(alone[2], abs=1e-3)
        if sequence.top is not None:
            at = len(sequence.prompt) - 1
            row = logits[at] - mx.logsumexp(logits[at])
            assert told[0] == pytest.approx(float(row[said[0]]), abs=1e-3)


def test_scores_of_a_prompt_are_those_of_its_logits(model: Model) -> None:
    prompt = list(range(300, 340))
    generation = model.generation(SamplingParams(temperature=0.0))
    found = [
        *generation.score(prompt[:7], prompt[1:8], 5),
        *generation.score(prompt[7:39], prompt[8:40], 5),
    ]
    logits = model.logits(prompt)
    for place, scored in enumerate(found):
        row = np.array(logits[place] - mx.logsumexp(logits[place])).tolist()
        assert scored.logprob == pytest.approx(row[prompt[place + 1]], abs=1e-3)
        assert [value for _, value in scored.top] == pytest.approx(
            sorted(row, reverse=True)[:5], abs=1e-3
        )
        assert math.isclose(row[scored.top[0][0]], scored.top[0][1], abs_tol=1e-3)
    plain = model.generation(SamplingParams(temperature=0.0))
    plain.prefill(prompt[:39])
    assert plain.step(prompt[-1]) == generation.step(prompt[-1])


def test_a_sequence_taken_up_again_tells_its_constraint_nothing_twice(model: Model) -> None:
    whim = Whim(4, model.config.vocab_size)
    generation = model.generation(KINDS[1])
    decoder = model.decoder()
    decoder.join(generation, 300, constraint=whim, top=3)
    said = [token for _ in range(6) for _, token in decoder.step()]
    other, tokens = generation.recovered()
    decoder.abandon()
    other.prefill(tokens)
    decoder.rejoin(other)
    while len(said) < 12:
        said += [token for _, token in decoder.step()]
    assert whim.accepted == said
    for at, token in enumerate(said):
        allowed = whim.allowed(at)
        assert allowed is None or token in allowed
