"""What speculation costs here, and what follows: with a clock that steps themselves move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from model import mtp_measure
from model.lane import Lane
from model.loading import DEMO_FOLDER, Model, load_model
from model.mtp_lane import MtpLane
from model.mtp_measure import measure_mtp


class Machine:
    """A plain step takes a second, one with guesses what `guessing` says; before step `calm` all
    take `slowed` times as long."""

    def __init__(self, patch: pytest.MonkeyPatch, guessing: float) -> None:
        self.now, self.steps, self.calm, self.slowed = 0.0, 0, 0, 1.0
        patch.setattr(mtp_measure, "time", SimpleNamespace(perf_counter=lambda: self.now))
        for lane, seconds in ((Lane, 1.0), (MtpLane, guessing)):
            patch.setattr(lane, "step", self._timed(lane.step, seconds))

    def _timed(self, step: Any, seconds: float) -> Any:
        def timed(lane: Any) -> Any:
            self.steps += 1
            self.now += seconds * (self.slowed if self.steps < self.calm else 1.0)
            return step(lane)

        return timed


@pytest.fixture
def model() -> Model:
    return load_model(DEMO_FOLDER)


def measured(model: Model) -> str:
    assert model.steps.mtp is not None
    return measure_mtp(model.steps, model.steps.mtp)


def test_where_guesses_are_cheap_they_are_made(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    Machine(monkeypatch, guessing=1.25)
    assert measured(model) == (
        "a step with one guess costs 1.25 of one without; "
        "up to 3 tokens are guessed where that pays"
    )
    assert model.steps.mtp
    assert model.steps.mtp.policy.may_pay()


def test_where_they_are_dear_they_are_off_and_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    Machine(monkeypatch, guessing=2.5)
    assert measured(model) == (
        "a step with one guess costs 2.50 of one without: off, for it cannot pay here"
    )
    mtp = model.steps.mtp
    assert mtp
    assert not mtp.policy.may_pay()
    assert not mtp.steps._functions  # pyright: ignore[reportPrivateUsage]


def test_a_machine_that_is_slow_for_a_while_is_slow_for_both(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    machine = Machine(monkeypatch, guessing=2.5)
    machine.calm, machine.slowed = 12, 4.0
    assert "costs 2.50 of one without" in measured(model)
