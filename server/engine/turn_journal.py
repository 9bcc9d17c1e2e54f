"""The turns a server generated, written down for its next process, beside the states on the disk.

Without them a conversation that goes on after a restart would be re-encoded from text, to other ids
than those whose states were kept. One line for each turn, with a checksum; lines that are not whole
are left out. Knows lines, not what is in them. Used by the worker thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

JOURNAL = "turns.jsonl"
MOST_BYTES = 64 << 20
_CHECK = 16  # characters


class TurnJournal:
    """Lines in the file at `path`, at most about MOST_BYTES of them. Trouble with the disk is
    logged once and turns it off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._on = True

    @property
    def waiting(self) -> bool:
        """Whether there are lines to write."""
        return bool(self._lines)

    def add(self, line: str) -> None:
        """Keeps a line until write()."""
        if self._on:
            text = line.encode()
            self._lines.append(_check(text) + b" " + text + b"\n")

    def write(self) -> None:
        """Appends what was added, with one call: other processes may append too."""
        data, self._lines = b"".join(self._lines), []
        if not data or not self._on:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(data)
        except OSError as error:
            self._off(error)

    def read(self, take: Callable[[str], object]) -> None:
        """Gives every whole line to `take`, oldest first; one that it refuses with ValueError is
        left out. A file that has grown too large is cut to its newer half."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self._off(error)
            return
        lines = data.splitlines()
        whole = [line for line in lines if line[:_CHECK] == _check(line[_CHECK + 1 :])]
        refused = len(lines) - len(whole)
        for line in whole:
            try:
                take(line[_CHECK + 1 :].decode())
            except ValueError:
                refused += 1
        if refused:
            log.warning("%s: %d damaged lines are left out", self._path, refused)
        if len(data) > MOST_BYTES or refused:
            self._rewrite(whole)

    def _rewrite(self, lines: list[bytes]) -> None:
        kept: list[bytes] = []
        room = MOST_BYTES // 2
        for line in reversed(lines):
            room -= len(line) + 1
            if room < 0:
                break
            kept.append(line + b"\n")
        partial = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(reversed(kept))
            os.replace(partial, self._path)
        except OSError as error:
            self._off(error)

    def _off(self, error: OSError) -> None:
        self._on = False
        log.warning("turns are not written down: %s", error)


def _check(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=_CHECK // 2).hexdigest().encode()
