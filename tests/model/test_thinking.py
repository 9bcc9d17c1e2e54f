"""Thinking budgets: where a thought is closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.thinking import ThinkingBudget, ends_sentence


@pytest.mark.parametrize(
    "text",
    ["so.", "Done!", "why?", "end.\n", "a\n", " \n\n", 'he said."', "(yes.)", "好。", "**x.** "],
)
def test_sentence_ends(text: str):
    assert ends_sentence(text)


@pytest.mark.parametrize("text", ["", "so", "3.5", "a\nb", " ", "x,", "e.g"])
def test_middles_of_sentences(text: str):
    assert not ends_sentence(text)


def test_it_waits_for_the_end_of_the_sentence_within_the_grace():
    budget = ThinkingBudget(100)
    assert budget.grace == 16
    assert not budget.spent(99, "end.")
    assert budget.spent(100, "end.")
    assert not budget.spent(100, "middle")
    assert budget.spent(107, "end.")
    assert not budget.spent(115, "middle")
    assert budget.spent(116, "middle")


@given(st.integers(1, 20_000))
def test_the_grace_is_small(tokens: int):
    assert ThinkingBudget(tokens).grace <= min(32, tokens // 8 + 4)
    assert ThinkingBudget(tokens).spent(tokens + 32, "x")


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        ThinkingBudget(0)
