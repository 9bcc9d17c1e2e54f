"""What commands that run a model over texts share: the flags, the windows, how far they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from model.quality.text import WINDOW, Window, windows
from model.tokenizer import Tokenizer

EXIT_FAILED, EXIT_STOPPED = 1, 130


def add_text_flags(arguments: argparse.ArgumentParser, *, tokens: int) -> None:
    """How much of a text is read, and how."""
    add = arguments.add_argument
    add("--tokens", type=_positive, default=tokens, help=f"at most so many (default: {tokens})")
    add("--window", type=_window, default=WINDOW, help=f"tokens read at once (default: {WINDOW})")
    add("--parse-special", action="store_true", help="control tokens in the text are ones")


def _positive(text: str) -> int:
    return _at_least(text, 1)


def _window(text: str) -> int:
    return _at_least(text, 2)


def _at_least(text: str, least: int) -> int:
    try:
        number = int(text.replace(",", ""))
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, found {text!r}")
    return number


def windows_of(
    options: argparse.Namespace, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[Window]:
    """The texts cut as add_text_flags() was told. Raises ValueError where nothing is left."""
    return windows(
        tokenizer,
        texts,
        length=options.window,
        most=options.tokens,
        parse_special=options.parse_special,
    )


def layers_done() -> Callable[[int, int], None]:
    """Tells on stderr how far it is, over itself on a terminal."""
    terminal = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        end = "\r" if terminal and done < total else "\n"
        print(f"layer {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show
