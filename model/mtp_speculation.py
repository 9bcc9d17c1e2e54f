"""Speculation as a model has it: the steps that guess, the policy that says when, and counts of how
it went."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.lane import Row
from model.mtp_policy import DepthPolicy
from model.mtp_steps import MtpSteps


@dataclass(slots=True)
class MtpCounts:
    """steps: of single rows, with guesses; drafted and accepted: guesses."""

    steps: int = 0
    drafted: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class Mtp:
    """Owned by the thread that loaded the model."""

    steps: MtpSteps
    policy: DepthPolicy
    counts: MtpCounts = field(default_factory=MtpCounts)

    def depth(self, row: Row, rows: int) -> int:
        """How many tokens `row` guesses in its next step, among `rows`; called once a step."""
        before = row.pace.depth or 0
        for depth, accepted in row.outcomes:
            self.policy.guessed(row.pace, depth, accepted)
            self.counts.steps += 1
            self.counts.drafted += depth
            self.counts.accepted += accepted
        if not row.outcomes and not before:
            self.policy.plain(row.pace)
        row.outcomes.clear()
        return self.policy.depth(row.pace, rows)
