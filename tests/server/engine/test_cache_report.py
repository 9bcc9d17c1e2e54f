"""The report names the message that differs, and what of it."""

from __future__ import annotations

from model.prompt import Prompt, PromptSection
from server.engine.cache_report import cache_report
from server.engine.events import CacheReport

PROMPT = Prompt(
    list(range(100)),
    (20, 30, 50, 60, 70),
    5,
    (
        PromptSection("system", 0),
        PromptSection("user message", 1),
        PromptSection("assistant message", 2, thought_end=42),
        PromptSection("tool result", 3),
        PromptSection("user message", 4),
    ),
)


def report(reused: int, common: int, *, extends: bool = False) -> CacheReport:
    return cache_report(PROMPT, reused=reused, common=common, extends=extends)


def test_a_new_prompt_and_one_that_only_adds_have_not_diverged() -> None:
    assert report(0, 0) == CacheReport(0, 100, 0)
    assert report(60, 60, extends=True) == CacheReport(60, 40, 60)


def test_what_differs_is_named() -> None:
    assert report(0, 7) == CacheReport(0, 100, 7, 0, "system")
    assert report(20, 25) == CacheReport(20, 80, 25, 1, "user message")
    assert report(30, 35) == CacheReport(30, 70, 35, 2, "reasoning")
    assert report(30, 45) == CacheReport(30, 70, 45, 2, "assistant message")
    assert report(50, 55) == CacheReport(50, 50, 55, 3, "tool result")


def test_what_was_known_but_is_not_there_any_more_was_evicted() -> None:
    assert report(20, 60, extends=True) == CacheReport(20, 80, 60, None, "evicted")
    assert report(20, 55).change == "tool result", "the difference says more"


def test_without_sections_only_the_figures_are_told() -> None:
    bare = Prompt(list(range(100)), (20, 30), 5)
    assert cache_report(bare, reused=20, common=25, extends=False) == CacheReport(20, 80, 25)
