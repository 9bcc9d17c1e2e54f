"""The figures against their definitions, written out term by term."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.quality.divergence import Divergence, divergences, log_softmax, perplexity

ROWS = st.lists(
    st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), min_size=1, max_size=4
)


def by_definition(p_logits: list[float], q_logits: list[float]) -> float:
    """Sum of p · ln(p / q), by math alone."""
    p_total = math.fsum(math.exp(x) for x in p_logits)
    q_total = math.fsum(math.exp(x) for x in q_logits)
    return math.fsum(
        math.exp(p) / p_total * ((p - math.log(p_total)) - (q - math.log(q_total)))
        for p, q in zip(p_logits, q_logits, strict=True)
    )


@given(reference=ROWS, shift=st.floats(-1000, 1000), data=st.data())
def test_kl_is_its_definition(
    reference: list[list[float]], shift: float, data: st.DataObject
) -> None:
    others = [data.draw(st.permutations(row)) for row in reference]
    of_reference = log_softmax(np.array(reference, np.float32))
    of_other = log_softmax(np.array(others, np.float32).astype(np.float64) + shift)
    found = divergences(of_reference, of_other)
    expected = [by_definition(p, q) for p, q in zip(reference, others, strict=True)]
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-7, atol=1e-9)


def test_small_divergences_are_not_lost() -> None:
    """A vocabulary of the real size, and logits that differ in their last digits."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (2, 248_320)).astype(np.float32)
    noise = random.normal(0, 1e-4, logits.shape).astype(np.float32)
    moved = logits + noise
    found = divergences(log_softmax(logits), log_softmax(moved))
    # To second order half the variance, under p, of what the logits moved by.
    p, by = np.exp(log_softmax(logits)), moved.astype(np.float64) - logits
    variance = (p * by**2).sum(-1) - (p * by).sum(-1) ** 2
    np.testing.assert_allclose(found, variance / 2, rtol=1e-3)


def test_figures() -> None:
    reference = log_softmax(np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    other = log_softmax(np.log([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8]]))
    divergence = Divergence()
    divergence.add(reference, other, np.array([0, 2]))
    divergence.add(reference[:1], reference[:1], np.array([1]))
    figures = divergence.figures()
    kl = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert figures["kl_mean"] == pytest.approx(kl / 3)
    assert figures["kl_max"] == pytest.approx(kl)
    assert figures["kl_p50"] == pytest.approx(0, abs=1e-12)
    assert figures["kl_p99"] == pytest.approx(0.98 * kl)
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["perplexity"] == pytest.approx((0.25 * 0.8 * 0.25) ** (-1 / 3))
    assert figures["reference_perplexity"] == pytest.approx((0.5 * 0.8 * 0.25) ** (-1 / 3))
    assert divergence.quantiles([0.0, 1.0]) == pytest.approx([0, kl], abs=1e-12)


def test_perplexity_of_even_odds_is_their_number() -> None:
    assert perplexity([np.full(4, math.log(7)), np.full(9, math.log(7))]) == pytest.approx(7)
