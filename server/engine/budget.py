"""How long a thought may be, and where it is closed. Knows token counts and text, no tokens."""

from __future__ import annotations

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
