"""Decode steps with and without a compiler."""

import shutil

import mlx.core as mx
import pytest

from model.loading import DEMO_FOLDER, load_model
from model.steps import Steps, compiler_available


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
    from dataclasses import replace

    logits = replace(model, steps=uncompiled).logits(tokens, decode=8)
    assert float(mx.abs(logits - expected).max()) < 1e-4
