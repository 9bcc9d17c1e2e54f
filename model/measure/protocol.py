"""Commands as JSON lines on standard input, answers as JSON lines on standard output.

Imports nothing but the standard library: mlx-lm's worker loads this file by its path, in an
environment without mxserve.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO


def answer_commands(
    handlers: Mapping[str, Callable[..., dict[str, Any]]], about: Mapping[str, Any]
) -> None:
    """Says `about` itself, then runs the handler that each line's "do" names with the line's other
    values, until standard input ends. What a handler raises is the answer {"error": ...}."""
    out, sys.stdout = sys.stdout, sys.stderr  # nobody else may write among the answers
    _say(out, about)
    for command in _commands(sys.stdin):
        name = str(command.pop("do"))
        try:
            answer = handlers[name](**command)
        except Exception as error:  # the asker decides what a failure means
            answer = {"error": f"{type(error).__name__}: {error}"}
        _say(out, answer)


def _commands(lines: TextIO) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.strip():
            yield json.loads(line)


def _say(out: TextIO, answer: Mapping[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()
