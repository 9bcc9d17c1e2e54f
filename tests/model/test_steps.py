"""Decode steps with and without a compiler."""

import shutil
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from model.loading import DEMO_FOLDER, WARM_UP_LENGTHS, load_model
from model.mtp_policy import MtpDepth
from model.mtp_steps import MtpSteps
from model.sampling import SamplingParams
from model.steps import StepFunction, Steps, compiler_available


def test_without_a_compiler_steps_run_uncompiled_and_say_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(DEMO_FOLDER)
    tokens = list(range(300, 340))
    expected = model.logits(tokens, decode=8)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not compiler_available(on_gpu=False)
    assert compiler_available(on_gpu=True)
    with caplog.at_level("WARNING"):
        uncompiled = Steps(model.network, on_gpu=False)
    assert "uncompiled" in caplog.text
    assert not uncompiled.compiled
    logits = replace(model, steps=uncompiled).logits(tokens, decode=8)
    assert float(mx.abs(logits - expected).max()) < 1e-4


@pytest.mark.parametrize("depth", [0, 1])
def test_warming_up_compiles_the_steps_of_first_requests(
    monkeypatch: pytest.MonkeyPatch, depth: MtpDepth
) -> None:
    traces: list[object] = []
    compile_step = mx.compile

    def counting(step: StepFunction) -> StepFunction:
        def traced(*args: Any) -> Any:
            traces.append(step)
            return step(*args)

        return compile_step(traced)

    monkeypatch.setattr(mx, "compile", counting)
    model = load_model(DEMO_FOLDER, mtp_depth=depth)
    model.warm_up()
    warmed = len(traces)
    assert warmed
    filtered = SamplingParams(top_p=0.9, top_k=20)
    for sampling in (SamplingParams(temperature=0.0), filtered):
        for length in WARM_UP_LENGTHS:
            generation = model.generation(sampling)
            generation.prefill(list(range(300, 300 + length)))
            for token in (400, None, None):
                generation.step(token)
            generation.settle()
    together = model.decoder()
    for _ in range(2):
        generation = model.generation(filtered)
        generation.prefill([300])
        together.join(generation, 400)
    together.step()
    assert len(traces) == warmed


def test_steps_with_guesses_that_fail_at_the_start_are_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a kernel does not compile")

    model = load_model(DEMO_FOLDER, mtp_depth=2)
    monkeypatch.setattr(MtpSteps, "run", broken)
    with caplog.at_level("WARNING"):
        model.warm_up()
    assert "MTP: off, for a step with guesses failed: a kernel does not compile" in caplog.text
    generation = model.generation(SamplingParams(temperature=0.0))
    generation.prefill([300, 301])
    assert generation.step(302) >= 0
