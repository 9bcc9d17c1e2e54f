"""When guessing pays, with figures made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.mtp_policy import MARGIN, REVIEW, DepthPolicy, Pace, StepCosts


def costs(*ratios: float, rows: int = 1) -> StepCosts:
    """A step with one token takes 10 ms; ratios: of steps with two tokens and more."""
    found = StepCosts()
    for width, ratio in enumerate((1.0, *ratios), 1):
        found.add(rows, width, 0.010 * ratio)
    return found


def run(policy: DepthPolicy, pace: Pace, steps: int, *, right: bool) -> list[int]:
    """The depths of so many steps in which all guesses are right, or none."""
    depths = []
    for _ in range(steps):
        depth = policy.depth(pace, 1)
        depths.append(depth)
        if depth:
            policy.guessed(pace, depth, depth if right else 0)
        else:
            policy.plain(pace)
    return depths


def test_a_cheap_step_is_used_and_a_dear_one_is_not() -> None:
    assert DepthPolicy(costs=costs(1.1, 1.9, 2.9)).depth(Pace(), 1) == 1
    assert DepthPolicy(costs=costs(1.1, 1.2, 1.3)).depth(Pace(), 1) == 3
    dear = DepthPolicy(costs=costs(1.9, 2.9, 3.9))
    assert dear.depth(Pace(), 1) == 0
    assert not dear.may_pay()


def test_a_row_whose_guesses_are_wrong_stops_and_tries_again_ever_later() -> None:
    policy, pace = DepthPolicy(costs=costs(1.2, 1.9, 2.8)), Pace()
    depths = run(policy, pace, 2000, right=False)
    assert depths[:REVIEW] == [1] * REVIEW
    gaps = [len(part) for part in "".join("x" if d else "." for d in depths).split("x") if part]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 64
    assert gaps[-1] > 4 * gaps[0]
    assert sum(depths) < 0.1 * len(depths)


def test_a_row_whose_guesses_are_right_goes_deeper() -> None:
    policy, pace = DepthPolicy(costs=costs(1.3, 1.6, 1.9)), Pace()
    depths = run(policy, pace, 400, right=True)
    assert 0 not in depths
    assert depths[-1] == 3


@pytest.mark.parametrize("choice", [0, 1, 2, 3])
def test_a_depth_that_was_asked_for_is_kept(choice: int) -> None:
    policy, pace = DepthPolicy(choice, costs=costs(5.0, 9.0, 13.0)), Pace()  # type: ignore[arg-type]
    assert set(run(policy, pace, 100, right=False)) == {choice}
    assert policy.may_pay() == (choice > 0)


def test_rows_that_were_not_measured_cost_as_the_nearest_ones() -> None:
    found = costs(1.5, rows=1)
    assert found.ratio(4, 2) == pytest.approx(1.5)
    assert found.ratio(1, 3) == pytest.approx(2.0)
    found.add(4, 1, 0.020)
    found.add(4, 2, 0.036)
    assert found.ratio(5, 2) == pytest.approx(1.8)
    assert StepCosts().ratio(1, 2) is None


def test_one_hiccup_does_not_turn_it_off() -> None:
    found = costs(1.2)
    found.add(1, 2, 5.0)
    ratio = found.ratio(1, 2)
    assert ratio is not None
    assert ratio < 1.5


def test_nothing_is_guessed_before_anything_was_measured() -> None:
    policy = DepthPolicy()
    assert policy.depth(Pace(), 1) == 0
    assert not policy.may_pay()


@given(
    ratios=st.lists(st.floats(1.0, 5.0), min_size=3, max_size=3),
    outcomes=st.lists(st.integers(0, 3), max_size=200),
)
def test_what_is_chosen_gains_by_its_own_figures(ratios: list[float], outcomes: list[int]) -> None:
    policy, pace = DepthPolicy(costs=costs(*ratios)), Pace()
    for accepted in outcomes:
        before = pace.left
        depth = policy.depth(pace, 1)
        if before <= 0 and depth:  # decided just now
            share = policy.share if pace.share is None else pace.share
            assert policy.gain(share, depth, 1) > MARGIN
        if depth:
            policy.guessed(pace, depth, min(accepted, depth))
        else:
            policy.plain(pace)
        assert pace.share is None or 0 <= pace.share <= 1
