"""Where in a prompt its state is worth keeping, and where a deterministic prefill is cut.

Knows token counts only.
"""

from __future__ import annotations

LAST_SNAPSHOTS = 3
LEAST_BRANCH = 64  # tokens
BEFORE_BRANCH = 16  # of two times of day, the first digits may agree by chance
FIXED_CHUNK = 256


def save_points(
    boundaries: tuple[int, ...], cached: int, last: int, branch: int | None = None
) -> list[int]:
    """Token counts at which to take a snapshot while feeding tokens [cached, last): the end of the
    prompt's head, and the last few message ends; and shortly before `branch`, where the prompt
    departs from all that is held, when a good many tokens before it are computed again: what varies
    inside a message (a time in the instructions) will vary there the next time too."""
    wanted = {*boundaries[:1], *boundaries[1:][-LAST_SNAPSHOTS:]}
    if branch is not None and branch - BEFORE_BRANCH - cached >= LEAST_BRANCH:
        wanted.add(branch - BEFORE_BRANCH)
    return sorted(end for end in wanted if cached < end <= last)


def fixed_chunk_end(boundaries: tuple[int, ...], start: int, last: int) -> int:
    """Where the chunk that begins at `start` ends, by the prompt alone: chunks of FIXED_CHUNK
    tokens counted from the last message end, so that a prompt is fed in the same pieces whether its
    beginning was cached or not."""
    before = max((end for end in boundaries if end <= start), default=0)
    after = min((end for end in boundaries if end > start), default=last)
    chunk = before + ((start - before) // FIXED_CHUNK + 1) * FIXED_CHUNK
    return min(chunk, after, last)
