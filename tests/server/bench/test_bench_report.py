"""Statistics of the benchmark: rates, spreads, and what may be called a difference."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench import report
from server.bench.client import Sample
from server.bench.report import Figure, Spread
from server.bench.workloads import Measurement, words

positive = st.floats(0.01, 1e6)


def sample(
    *,
    prompt: int = 110,
    cached: int = 10,
    generated: int = 11,
    first: float = 0.5,
    end: float = 1.5,
    arrivals: int = 10,
) -> Sample:
    return Sample(prompt, cached, True, generated, first, end, "stop", "text", arrivals)


def measured(name: str, rounds: Sequence[Sample]) -> list[Measurement]:
    return [Measurement(name, number, one) for number, one in enumerate(rounds)]


def named(found: Sequence[Figure], name: str) -> Figure:
    (figure,) = [figure for figure in found if figure.name == name]
    return figure


def test_rates_follow_the_published_definitions() -> None:
    one = sample()
    assert one.decode_rate == pytest.approx(10.0)  # (11 - 1) / (1.5 - 0.5)
    assert one.prefill_rate == pytest.approx(200.0)  # (110 - 10) / 0.5
    assert sample(generated=1).decode_rate is None


def test_an_answer_that_came_in_lumps_has_no_decode_rate() -> None:
    assert sample(generated=20, arrivals=9).decode_rate is None
    assert sample(generated=20, arrivals=10).decode_rate == pytest.approx(19.0)


@given(st.lists(positive, min_size=1), st.lists(positive, min_size=1))
def test_a_ratio_is_beyond_noise_only_when_every_value_is_better(
    mine: list[float], theirs: list[float]
) -> None:
    figure = Figure("x", "tok/s", True, {"a": Spread.of(mine), "b": Spread.of(theirs)})
    ratio = figure.ratio("a", "b")
    assert ratio is not None
    times, clear = ratio
    separated = min(mine) > max(theirs) or min(theirs) > max(mine)
    assert clear == (separated and min(len(mine), len(theirs)) > 1)
    assert times == pytest.approx(Spread.of(mine).median / Spread.of(theirs).median)


def test_a_shorter_time_is_the_better_one() -> None:
    figure = Figure("x", "ms", False, {"a": Spread.of([1.0, 1.1]), "b": Spread.of([4.0, 4.4])})
    assert figure.ratio("a", "b") == (pytest.approx(4.0), True)


def test_the_cards_figure_is_the_best_of_turns_two_to_four() -> None:
    runs = {
        "mxserve": [
            *measured("card turn 1", [sample(end=0.6)]),  # 100 tok/s, but the first turn
            *measured("card turn 2", [sample(end=1.5)]),  # 10
            *measured("card turn 3", [sample(end=1.0)]),  # 20
            *measured("card turn 4", [sample(generated=1)]),  # nothing to divide
        ]
    }
    best = named(report.figures(runs), "card best of turns 2-4").spreads["mxserve"]
    assert (best.median, best.count) == (pytest.approx(20.0), 1)


def test_the_table_marks_noise_and_prints_clear_ratios() -> None:
    runs = {
        "mxserve": measured("128 decode", [sample(end=1.0), sample(end=0.9)])
        + measured("128 cold", [sample(first=0.5), sample(first=0.7)]),
        "mlx-lm": measured("128 decode", [sample(end=2.5), sample(end=2.6)])
        + measured("128 cold", [sample(first=0.6), sample(first=0.8)]),
    }
    lines = report.table(runs).splitlines()
    decode = next(line for line in lines if line.startswith("128 decode"))
    cold = next(line for line in lines if line.startswith("128 cold: TTFT"))
    assert decode.endswith("4.61x")
    assert "~ (" in cold


def test_a_server_that_hides_its_cache_has_no_cache_figure() -> None:
    silent = Sample(100, 0, False, 5, 0.1, 0.2, "stop", "", 4)
    runs = {
        "mxserve": measured("128 warm", [sample()]),
        "mlx-lm": measured("128 warm", [silent]),
    }
    prefilled = named(report.figures(runs), "128 warm: prefilled")
    assert set(prefilled.spreads) == {"mxserve"}


def test_the_receipt_is_json_and_says_on_what_it_was_measured() -> None:
    runs = {"mxserve": measured("128 decode", [sample()])}
    receipt = json.loads(report.as_text(report.receipt(runs, {"rounds": 1})))
    assert receipt["machine"]["cores"] >= 1
    assert receipt["versions"]["mlx"]
    assert receipt["conditions"] == {"rounds": 1}
    assert receipt["samples"]["mxserve"][0]["decode_rate"] == pytest.approx(10.0)


@given(st.integers(1, 500), st.integers(0, 1000))
def test_filler_is_repeatable_and_differs_from_its_first_word_on(count: int, nonce: int) -> None:
    assert words(count, nonce) == words(count, nonce)
    assert words(count, nonce).split()[0] != words(count, nonce + 1).split()[0]
    assert len(words(count, nonce).split()) == count + 1
