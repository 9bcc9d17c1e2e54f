"""A text as the windows of tokens that networks are run over. Knows tokens, no networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model.tokenizer import Tokenizer

Window = list[int]
WINDOW, TOKENS = 512, 16_384  # defaults of the commands
_SHORTEST = 2  # one token to read and one to guess


def read_text(path: Path) -> str:
    """A file in UTF-8. Raises ValueError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8: {error.reason}") from error


def windows(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    length: int = WINDOW,
    most: int = TOKENS,
    parse_special: bool = False,
) -> list[Window]:
    """The texts cut into windows of `length` tokens, each beginning anew, `most` tokens in all.

    A text's last window may be shorter. With `parse_special`, what is spelled like a control token
    is one. Raises ValueError where nothing is left to predict.
    """
    found: list[Window] = []
    left = most
    for text in texts:
        ids = tokenizer.encode(text, allow_special=parse_special)[:left]
        left -= len(ids)
        found += [ids[start : start + length] for start in range(0, len(ids), length)]
    found = [window for window in found if len(window) >= _SHORTEST]
    if not found:
        raise ValueError("expected a text of two tokens or more, found less")
    return found
