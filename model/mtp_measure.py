"""What speculation costs on this machine, measured before the first request: a step with guesses
against one without."""

from __future__ import annotations

import time
from typing import cast

from model.generation import Generation
from model.mtp_policy import DepthPolicy, MtpDepth
from model.mtp_speculation import Mtp
from model.mtp_steps import MtpSteps
from model.sampling import SamplingParams
from model.steps import Steps

_TOKENS = 2  # before the step
_WARM, _TIMED = 2, 6  # steps
_SAMPLINGS = (
    SamplingParams(temperature=1.0, top_p=0.9, top_k=20, seed=0),
    SamplingParams(temperature=0.0),
)


def measure_mtp(steps: Steps, mtp: Mtp) -> str:
    """Measures what the policy has to know and compiles what it may choose; returns what came of
    it, in words. Where nothing can be gained, even if almost all guesses were right, it is told
    so, and no step is compiled."""
    policy = mtp.policy
    if policy.choice != "auto":
        for sampling in _SAMPLINGS:
            _seconds(steps, policy.choice, sampling)
        return f"always {policy.choice} guessed" if policy.choice else "off"
    if steps.compiled:  # compiling takes long on a CPU: first without
        bare = Steps(steps.network, on_gpu=False)
        bare.compiled = False
        bare.mtp = Mtp(MtpSteps(mtp.steps.head, compiled=False), DepthPolicy())
        _measure(bare, bare.mtp.policy, (1,), _SAMPLINGS[:1])
        if not bare.mtp.policy.may_pay():
            policy.depths, policy.costs = (), bare.mtp.policy.costs
            return _text(policy)
    _measure(steps, policy, policy.depths, _SAMPLINGS)
    return _text(policy)


def _measure(
    steps: Steps,
    policy: DepthPolicy,
    depths: tuple[int, ...],
    samplings: tuple[SamplingParams, ...],
) -> None:
    for depth in (0, *depths):
        seconds = [_seconds(steps, depth, sampling) for sampling in samplings]
        policy.costs.add(1, depth + 1, seconds[0])


def _seconds(steps: Steps, depth: int, sampling: SamplingParams) -> float:
    """The least time of a step of one row; its state is one of zeros."""
    assert steps.mtp is not None  # noqa: S101 - the caller has it
    policy, before = steps.mtp.policy, steps.mtp.policy.choice
    policy.choice = cast(MtpDepth, depth)
    try:
        generation = Generation(steps, sampling)
        generation.pretend(_TOKENS)
        generation.begin(0)
        least = float("inf")
        for index in range(_WARM + _TIMED):
            begin = time.perf_counter()
            generation.advance()
            if index >= _WARM:
                least = min(least, time.perf_counter() - begin)
        generation.settle()
    finally:
        policy.choice = before
    return least


def _text(policy: DepthPolicy) -> str:
    ratio = policy.costs.ratio(1, 2)
    costs = "" if ratio is None else f"a step with one guess costs {ratio:.2f} of one without"
    if policy.may_pay():
        return f"{costs}; up to {policy.most} tokens are guessed where that pays"
    return f"{costs}: off, for it cannot pay here"
