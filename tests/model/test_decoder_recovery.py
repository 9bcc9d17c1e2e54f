"""Rows whose step failed on its way go on as if nothing had happened, once taken up again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.generation import Generation
from model.loading import Model, load_model
from tests.model.test_decoder import KINDS, Sequence, alone, assert_same, tokens_of

COUNT = 12


class Lost(Exception):
    """What the device raised."""


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model()


class Failing:
    """The model's steps; call number `at` (from 0) of the ones that decode raises, before or after
    it did its work."""

    def __init__(self, model: Model, at: int, *, late: bool) -> None:
        self._steps, self._left, self._late = model.steps, at, late

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._steps, name)
        if name not in ("decode", "forward", "choose"):
            return function

        def call(*given: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == -1 and not self._late:
                raise Lost
            result = function(*given, **named)
            if self._left == -1:
                raise Lost
            return result

        return call


@given(
    at=st.integers(0, 10),
    late=st.booleans(),
    forced=st.integers(0, 3),
    scored=st.booleans(),
    kinds=st.lists(st.integers(0, len(KINDS) - 1), min_size=1, max_size=3),
)
@settings(max_examples=20, deadline=None)
def test_a_step_that_fails_takes_no_token_with_it(
    model: Model, at: int, late: bool, forced: int, scored: bool, kinds: list[int]
) -> None:
    """The prompt's last token, and forced ones, wait in a queue of their own until they are fed."""
    sequences = [Sequence(i, 30 + i, kind, 0, COUNT) for i, kind in enumerate(kinds)]
    decoder = model.decoder()
    decoder._steps = Failing(model, at, late=late)  # type: ignore[assignment]
    said: dict[int, list[int]] = {i: [] for i in range(len(kinds))}
    rows: list[Generation] = []
    for sequence in sequences:
        rows.append(sequence.prefilled(model))
        decoder.join(rows[-1], sequence.prompt[-1], top=1 if scored else None)

    def step() -> None:
        for row, token in decoder.step():
            index = rows.index(row)
            said[index].append(token)
            if len(said[index]) == 2 and index == 0 and forced:
                row.force(tokens_of(99, forced))

    while min(map(len, said.values())) < COUNT:
        try:
            step()
        except Lost:
            decoder.abandon()
            for index, lost in enumerate(rows):
                rows[index], tokens = lost.recovered()
                rows[index].prefill(tokens)
                decoder.rejoin(rows[index])
    for index, sequence in enumerate(sequences):
        wanted = Sequence(index, 30 + index, kinds[index], 0, COUNT, forced if index == 0 else 0)
        assert_same(model, sequence, said[index][:COUNT], alone(model, wanted))
