"""Where in a prompt its state is worth keeping, and where a deterministic prefill is cut.

Knows token counts only.
"""

from __future__ import annotations

LAST_SNAPSHOTS = 3
FIXED_CHUNK = 256


def save_points(boundaries: tuple[int, ...], cached: int, last: int) -> list[int]:
    """Token counts at which to take a snapshot while feeding tokens [cached, last): the end of the
    prompt's head, and the last few message ends."""
    wanted = [*boundaries[:1], *boundaries[1:][-LAST_SNAPSHOTS:]]
    return [end for end in wanted if cached < end <= last]


def fixed_chunk_end(boundaries: tuple[int, ...], start: int, last: int) -> int:
    """Where the chunk that begins at `start` ends, by the prompt alone: chunks of FIXED_CHUNK
    tokens counted from the last message end, so that a prompt is fed in the same pieces whether its
    beginning was cached or not."""
    before = max((end for end in boundaries if end <= start), default=0)
    after = min((end for end in boundaries if end > start), default=last)
    chunk = before + ((start - before) // FIXED_CHUNK + 1) * FIXED_CHUNK
    return min(chunk, after, last)
