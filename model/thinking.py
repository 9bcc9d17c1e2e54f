"""How long a thought may be, and where and how it is closed. Counts tokens; knows no arrays.

Qwen3.6 knows thinking on and off only: effort is a budget in tokens that the engine enforces.
"""

from __future__ import annotations

from collections.abc import Mapping

# None: no limit but the context. 0: thinking is off.
EFFORT_BUDGETS: Mapping[str, int | None] = {
    "none": 0,
    "minimal": 256,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
    "xhigh": None,
    "max": None,
}

# What is fed when a budget is spent. The demo was trained to answer after exactly this text.
CLOSING_TEXT = "\n\nI have thought long enough, so I will answer now.\n</think>\n\n"

_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")  # noqa: RUF001
_MAY_FOLLOW = " \t\"')]}*_`”’」』"  # noqa: RUF001


class ThinkingBudget:
    """A thought of `tokens` tokens; past them it may go on to the end of its sentence, for at
    most `grace` tokens more."""

    def __init__(self, tokens: int) -> None:
        if tokens < 1:
            raise ValueError("a thinking budget is at least one token; none is no thought")
        self.tokens = tokens
        self.grace = min(32, tokens // 8 + 4)

    def spent(self, count: int, text: str) -> bool:
        """Whether to close now: `count` tokens were thought, the last of them added `text`."""
        if count < self.tokens:
            return False
        return count >= self.tokens + self.grace or ends_sentence(text)


def ends_sentence(text: str) -> bool:
    """Whether a sentence or a line ends with (or inside the blank end of) `text`."""
    if "\n" in text[len(text.rstrip()) :]:
        return True
    return text.rstrip(_MAY_FOLLOW).endswith(_SENTENCE_ENDS)
