"""What speculation costs on this machine, measured before the first request: a step with guesses
against one without."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from model.decoder import Decoder
from model.generation import Generation
from model.mtp_policy import DepthPolicy, MtpDepth
from model.mtp_speculation import Mtp
from model.mtp_steps import MtpSteps
from model.sampling import SamplingParams
from model.steps import Steps

_TOKENS = 2  # before the step
_WARM, _TIMED = 2, 6  # steps
_ASKED = (
    2  # times, before it counts that guesses may pay: other work may have slowed the plain step
)
_SAMPLINGS = (
    SamplingParams(temperature=1.0, top_p=0.9, top_k=20, seed=0),
    SamplingParams(temperature=0.0),
)


def measure_mtp(steps: Steps, mtp: Mtp, lengths: Sequence[int] = (_TOKENS,)) -> str:
    """Measures what the policy has to know and compiles what it may choose, as after `lengths`
    tokens; returns what came of it, in words. Where nothing can be gained, even if almost all
    guesses were right, it is told so, and no step is compiled."""
    policy = mtp.policy
    if policy.choice != "auto":
        _compile(steps, (policy.choice,), lengths)
        return f"always {policy.choice} guessed" if policy.choice else "off"
    for _ in range(_ASKED):  # compiling takes long on a CPU: first without
        bare = Steps(steps.network, on_gpu=False)
        bare.compiled = False
        bare.mtp = Mtp(MtpSteps(mtp.steps.head, compiled=False), DepthPolicy())
        _measure(bare, bare.mtp.policy, (1,))
        if not bare.mtp.policy.may_pay():
            policy.depths, policy.costs = (), bare.mtp.policy.costs
            return _text(policy)
    _measure(steps, policy, policy.depths)
    if policy.may_pay():
        _compile(steps, policy.depths, lengths)
    return _text(policy)


def _measure(steps: Steps, policy: DepthPolicy, depths: tuple[int, ...]) -> None:
    """Tells the policy the least time of a step of one row at each depth. They take turns: what
    slows a machine down for a while slows all of them."""
    ways = (0, *depths)
    rows = [_generation(steps, _TOKENS, _SAMPLINGS[0]) for _ in ways]
    for row in rows:
        row.begin(0)
    least = [float("inf")] * len(ways)
    for index in range(_WARM + _TIMED):
        for place, (depth, row) in enumerate(zip(ways, rows, strict=True)):
            begin = time.perf_counter()
            with _depth(steps, depth):
                row.advance()
            if index >= _WARM:
                least[place] = min(least[place], time.perf_counter() - begin)
    for depth, row, seconds in zip(ways, rows, least, strict=True):
        row.settle()
        policy.costs.add(1, depth + 1, seconds)


def _compile(steps: Steps, depths: Sequence[int], lengths: Sequence[int]) -> None:
    """Runs the first steps of one row and of two, at each depth, and so compiles them."""
    filtered, greedy = _SAMPLINGS
    for depth in depths:
        for length in lengths:
            for samplings in ((filtered,), (greedy,), (filtered, filtered)):
                with _depth(steps, depth):
                    # Its clock stands still: what compiling takes is no step's cost.
                    decoder = Decoder(steps, clock=lambda: 0.0)
                    for sampling in samplings:
                        decoder.join(_generation(steps, length, sampling), 0)
                    for _ in range(_WARM):
                        decoder.step()
                    for generation in decoder.members:
                        decoder.leave(generation)
                        generation.settle()


def _generation(steps: Steps, length: int, sampling: SamplingParams) -> Generation:
    """One whose state, as after `length` tokens, is one of zeros."""
    generation = Generation(steps, sampling)
    generation.pretend(length)
    return generation


@contextmanager
def _depth(steps: Steps, depth: int) -> Iterator[None]:
    assert steps.mtp is not None  # noqa: S101 - the caller has it
    policy, before = steps.mtp.policy, steps.mtp.policy.choice
    policy.choice = cast(MtpDepth, depth)
    try:
        yield
    finally:
        policy.choice = before


def _text(policy: DepthPolicy) -> str:
    ratio = policy.costs.ratio(1, 2)
    costs = "" if ratio is None else f"a step with one guess costs {ratio:.2f} of one without"
    if policy.may_pay():
        return f"{costs}; up to {policy.most} tokens are guessed where that pays"
    return f"{costs}: off, for it cannot pay here"
