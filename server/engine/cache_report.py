"""What the prompt cache did for a prompt, in words: what was reused, and what differed where.

Knows token counts and sections of a prompt, neither tokens nor the cache.
"""

from __future__ import annotations

from server.engine.events import CacheReport
from server.engine.ports import Prompt

EVICTED = "evicted"


def cache_report(prompt: Prompt, *, reused: int, common: int, extends: bool) -> CacheReport:
    """`reused`: tokens taken from the cache. `common`: tokens that agree with something held, of
    which `extends` says whether it ends there, so that nothing differs."""
    prefilled = len(prompt.tokens) - reused
    message, change = None, None
    if common and not extends:
        message, change = _difference(prompt, common)
    if change is None and any(reused < end <= common for end in prompt.boundaries):
        change = EVICTED
    return CacheReport(reused, prefilled, common, message, change)


def _difference(prompt: Prompt, common: int) -> tuple[int | None, str | None]:
    """The message in which token `common` lies, and what it is."""
    for end, section in zip(prompt.boundaries, prompt.sections, strict=False):
        if end > common:
            in_thought = section.thought_end is not None and common < section.thought_end
            return section.message, "reasoning" if in_thought else section.kind
    return None, None
