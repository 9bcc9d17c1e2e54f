"""Measured costs: steps by rows, chunks by size and context."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.chunk_size import FIRST_CHUNK, SIZES, ChunkSizer
from server.engine.decode_cost import DecodeCost, RecentCost


def cost(tokens: int, context: int) -> float:
    return 0.03 + tokens * (0.0003 + 1e-8 * (context + tokens / 2))


def fed(*figures: tuple[int, int], noise: float = 0.0) -> ChunkSizer:
    rng = random.Random(1)
    sizer = ChunkSizer()
    for tokens, context in figures:
        sizer.add(tokens, context, cost(tokens, context) * rng.uniform(1 - noise, 1 + noise))
    return sizer


def test_sizes_are_few_and_close():
    assert len(SIZES) <= 24
    assert all(after <= 1.5 * before for before, after in pairwise(SIZES))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_size_and_context_are_told_apart(noise: float):
    figures = [(size, context) for context in range(60_000, -1, -3000) for size in (64, 256, 1024)]
    sizer = fed(*figures, noise=noise)
    for tokens, context in ((32, 0), (128, 30_000), (512, 57_000), (1024, 100)):
        expected = sizer.seconds(tokens, context)
        assert expected == pytest.approx(cost(tokens, context), rel=0.02 + 2.5 * noise)


def test_what_fits_takes_the_time_there_is():
    sizer = fed(*((size, 0) for size in (64, 128, 256, 512) * 5))
    for room in (0.05, 0.08, 0.12, 0.2):
        size = sizer.fitting(room, 0)
        larger = SIZES[SIZES.index(size) + 1]
        assert cost(size, 0) <= room * 1.01 <= cost(larger, 0) * 1.02
    assert sizer.fitting(0.03, 0) == 0


def test_growth_is_bounded_by_what_was_measured():
    sizer = fed((128, 0), (128, 128))
    assert sizer.fitting(100.0, 256) == 192


def test_the_largest_chunk_is_forgotten_in_time():
    sizer = fed((2048, 0), *((48, 2048 + 48 * i) for i in range(100)))
    assert sizer.fitting(100.0, 6000) <= 128


def test_a_context_never_seen_is_tried_with_care():
    sizer = fed(*((512, 512 * i) for i in range(8)))
    assert sizer.fitting(10.0, 4096) == 768
    assert sizer.fitting(10.0, 100_000) == FIRST_CHUNK


def test_a_shorter_context_is_not_supposed_to_be_cheaper_before_it_was_seen():
    sizer = fed(*((512, 50_000 + 512 * i) for i in range(8)))
    assert sizer.seconds(512, 0) >= sizer.seconds(512, 50_000)
    sizer.add(512, 0, cost(512, 0))
    assert sizer.seconds(512, 0) < sizer.seconds(512, 50_000)


def test_a_hiccup_counts_at_once_but_at_most_fourfold_and_is_soon_over():
    sizer = fed(*((256, 256 * i) for i in range(10)))
    usual = sizer.seconds(256, 2560)
    sizer.add(256, 2560, 30.0)
    assert 2 * usual < sizer.seconds(256, 2816) < 8 * usual
    for index in range(20):
        sizer.add(256, 2816 + 256 * index, cost(256, 2816 + 256 * index))
    assert sizer.seconds(256, 2816) == pytest.approx(usual, rel=0.15)


@given(
    st.lists(
        st.tuples(st.integers(0, 4096), st.integers(0, 300_000), st.floats(0, 1000)), max_size=40
    ),
    st.floats(-10, 10),
    st.integers(0, 300_000),
)
def test_any_figures_give_a_size_on_offer_and_costs_that_grow_with_it(
    figures: list[tuple[int, int, float]], room: float, context: int
):
    sizer = ChunkSizer()
    for tokens, before, seconds in figures:
        sizer.add(tokens, before, seconds)
    size = sizer.fitting(room, context)
    assert size in (0, *SIZES)
    costs = [sizer.seconds(tokens, context) for tokens in SIZES]
    assert costs == sorted(costs)
    assert costs[0] >= 0
    if size and sizer.measured:
        assert sizer.seconds(size, context) <= room


def test_a_recent_cost_rises_at_once_and_sinks_slowly():
    recent = RecentCost()
    assert recent.value is None
    for seconds in (0.01, 0.03):
        recent.add(seconds)
        assert recent.value == seconds
    recent.add(0.01)
    assert 0.02 < (recent.value or 0) < 0.03
    recent.add(10.0)
    assert (recent.value or 0) < 0.12


def test_steps_not_measured_are_estimated_high():
    steps = DecodeCost()
    assert steps.seconds(4) == 0
    steps.add(2, 0.02)
    steps.add(8, 0.05)
    assert [steps.seconds(rows) for rows in (1, 2, 4, 8, 16)] == [0.02, 0.02, 0.05, 0.05, 0.1]


def test_newer_figures_of_fewer_rows_lift_older_ones():
    steps = DecodeCost()
    steps.add(4, 0.02)
    steps.add(2, 0.06)
    assert steps.seconds(4) == 0.06
    steps.add(4, 0.03)
    assert steps.seconds(4) == 0.03
