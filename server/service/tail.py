"""The command that shows the end of a log file."""

from __future__ import annotations

from pathlib import Path


def tail(path: Path, lines: int, *, follow: bool) -> list[str]:
    """-F goes on with what is added, also after the file was rotated."""
    return ["tail", "-n", str(lines), *(["-F"] if follow else []), str(path)]
