"""`--log-file`: everything that the process prints goes to a file, which is renamed when it is
large.

The file takes the place of standard output and standard error themselves, so that a crash of
native code is in it too. launchd opens a service's log once and never again, and newsyslog, which
could rotate it, needs root; hence the server rotates its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

LOG_BYTES = 10 << 20
KEPT = 5  # besides the current one


class LogFile(logging.Handler):
    """Added to the root logger: looks at the file's size with every record, and writes none."""

    def __init__(self, path: Path, limit_bytes: int = LOG_BYTES, kept: int = KEPT) -> None:
        """Redirects standard output and error. Raises OSError."""
        super().__init__()
        self._path = path
        self._limit = limit_bytes
        self._kept = kept
        path.parent.mkdir(parents=True, exist_ok=True)
        self._redirect()

    def emit(self, record: logging.LogRecord) -> None:
        # Without a file on a full disk or in a folder that is gone the server goes on.
        with contextlib.suppress(OSError):
            if os.fstat(2).st_size >= self._limit:
                self._rotate()

    def _rotate(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(self._numbered(number), self._numbered(number + 1))
        os.replace(self._path, self._numbered(1))
        self._redirect()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _redirect(self) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.dup2(opened, 1)
            os.dup2(opened, 2)
        finally:
            os.close(opened)
