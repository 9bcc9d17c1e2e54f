"""Pieces of grammars in Lark as llguidance reads it. Knows its spelling, nothing of what for."""

from __future__ import annotations

import json
from collections.abc import Iterable


def quoted(text: str) -> str:
    """`text` as a string of Lark, which stands for itself."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def alternatives(texts: Iterable[str]) -> str:
    """One of `texts`, to be the right side of a terminal: as rules, each would cost at every step
    what one terminal costs for all."""
    return " | ".join(map(quoted, texts))
