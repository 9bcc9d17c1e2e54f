"""The commands in the documentation: fenced blocks of sh and python, and what is said of each.

A block that is not run has a comment before it, `<!-- not run: why -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

# `make clients` runs those of clients.md, with the clients it installs; docs/benchmarks has hours
# of benchmarks.
FILES = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "deploy/README.md",
    *sorted(
        f"docs/{path.name}" for path in Path(ROOT, "docs").glob("*.md") if path.stem != "clients"
    ),
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- not run: ([^\n]+?) -->\s*\Z")
_INDENTED = re.compile(r"\n\n((?:    [^\n]*\n)+)")
_COMMAND = re.compile(r"\s*(\$ )?(\.venv/bin/)?(mxserve|make|curl|python|pip|sudo)\s")


@dataclass(frozen=True)
class Block:
    """not_run: why it is not, None where it is."""

    file: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}"

    def lines(self) -> list[str]:
        """Its commands, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        return [line for line in joined.splitlines() if line.strip() and line[0] != "#"]


def blocks(file: str) -> Iterator[Block]:
    """The fenced blocks of one file, of any language."""
    text = Path(ROOT, file).read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        before = text[: found.start()]
        mark = _MARK.search(before)
        yield Block(
            file, before.count("\n") + 2, found[1], found[2], mark[1] if mark is not None else None
        )


def inline(file: str) -> list[str]:
    """Commands with flags in the text itself, as far as they are whole."""
    text = _FENCE.sub("", Path(ROOT, file).read_text(encoding="utf-8"))
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    wanted = (span for span in spans if _COMMAND.match(span) and " --" in span)
    return [span for span in wanted if "..." not in span and "--help" not in span]


def unfenced(file: str) -> list[str]:
    """Indented blocks that look like commands, which nobody would run."""
    text = _FENCE.sub("", Path(ROOT, file).read_text(encoding="utf-8"))
    found = [block for match in _INDENTED.finditer(text) for block in match[1].splitlines()]
    return [line for line in found if _COMMAND.match(line)]
