"""The chunked form of the gated delta rule against its definition, one token after another."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import delta_rule, device  # noqa: F401 - device first

HEADS, KEY_HEADS, KEY_DIM, VALUE_DIM = 4, 2, 32, 64


def example(tokens: int, seed: int, *, repeated_keys: bool = False) -> list[mx.array]:
    rng = np.random.default_rng(seed)

    def unit(*shape: int) -> np.ndarray:
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    k = unit(1, tokens, KEY_HEADS, KEY_DIM)
    if repeated_keys:
        k[:] = k[:, :1]
    parts = [
        unit(1, tokens, KEY_HEADS, KEY_DIM) * KEY_DIM**-0.5,
        k,
        rng.normal(size=(1, tokens, HEADS, VALUE_DIM)),
        -np.abs(rng.normal(size=(1, tokens, HEADS))) * (0 if repeated_keys else 1),
        np.ones((1, tokens, HEADS)) if repeated_keys else rng.uniform(size=(1, tokens, HEADS)),
        rng.normal(size=(1, HEADS, VALUE_DIM, KEY_DIM)),
    ]
    return [mx.array(part.astype(np.float32)) for part in parts]


def definition(parts: list[mx.array]) -> tuple[np.ndarray, np.ndarray]:
    """S ← g S; S ← S + β (v - S k) kᵀ; o = S q, in float64 numpy."""
    q, k, v, log_decay, beta, state = (np.array(p).astype(np.float64) for p in parts)
    q, k = (np.repeat(x, HEADS // KEY_HEADS, axis=2) for x in (q, k))
    out = np.zeros_like(v)
    for t in range(v.shape[1]):
        state = state * np.exp(log_decay[:, t])[..., None, None]
        recalled = np.einsum("bhvk,bhk->bhv", state, k[:, t])
        delta = beta[:, t][..., None] * (v[:, t] - recalled)
        state = state + delta[..., None] * k[:, t][..., None, :]
        out[:, t] = np.einsum("bhvk,bhk->bhv", state, q[:, t])
    return out, state


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 200), seed=st.integers(0, 10_000))
def test_chunked_equals_the_definition(tokens: int, seed: int) -> None:
    parts = example(tokens, seed)
    out, state = delta_rule.chunked(*parts)
    expected_out, expected_state = definition(parts)
    assert np.abs(np.array(out) - expected_out).max() < 2e-5
    assert np.abs(np.array(state) - expected_state).max() < 2e-5


def test_one_token_equals_the_definition() -> None:
    parts = example(1, 3)
    out, state = delta_rule.recurrent_step(*parts)
    expected_out, expected_state = definition(parts)
    assert np.abs(np.array(out) - expected_out).max() < 1e-5
    assert np.abs(np.array(state) - expected_state).max() < 1e-5


def test_the_same_key_over_and_over_stays_exact() -> None:
    """The triangular inverse must not be a truncated power series: its terms explode here."""
    parts = example(150, 5, repeated_keys=True)
    out, _ = delta_rule.chunked(*parts)
    assert np.abs(np.array(out) - definition(parts)[0]).max() < 1e-3


def test_the_built_in_update_agrees_with_ours() -> None:
    parts = example(9, 11)
    ours, state = delta_rule.plain(*parts)
    theirs, their_state = delta_rule.built_in(*parts)
    assert float(mx.abs(ours - theirs).max()) < 1e-4
    assert float(mx.abs(state - their_state).max()) < 1e-4


def test_the_choice_falls_back_when_the_fused_update_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, why = delta_rule.choose(on_gpu=False, key_dim=32, value_dim=32)
    assert chosen is delta_rule.plain
    assert "CPU" in why
    chosen, _ = delta_rule.choose(on_gpu=True, key_dim=32, value_dim=32)
    assert chosen is delta_rule.built_in

    def wrong(*parts: mx.array) -> tuple[mx.array, mx.array]:
        out, state = delta_rule.plain(*parts)
        return out + 1, state

    monkeypatch.setattr(delta_rule, "built_in", wrong)
    chosen, why = delta_rule.choose(on_gpu=True, key_dim=32, value_dim=32)
    assert chosen is delta_rule.plain
    assert "differs" in why
