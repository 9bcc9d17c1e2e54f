"""Noise that clients put into instructions anew with every request, taken out of the prompt.

One thing is known: Claude Code begins its instructions with `x-anthropic-billing-header:` and
`name=value;` pairs, one of them different each time. It means nothing to a model, and left at the
head of a prompt it makes every request a new one for the prompt cache.
"""

from __future__ import annotations

import re

_BILLING = re.compile(
    r"x-anthropic-billing-header:"
    r"(?:[ \t]*[\w.-]+=[^;\s]*(?:;|(?=\s|\Z)))+"
    r"[ \t]*(?:\r?\n)?"
)


def without_noise(instructions: str) -> str:
    """`instructions` without a billing header at their beginning, to the end of its line or of its
    pairs where text follows on the same line; everything else as it is."""
    header = _BILLING.match(instructions)
    return instructions[header.end() :] if header else instructions
