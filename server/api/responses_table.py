"""Responses in one SQLite file: bounded, oldest out first, each tenant's apart.

Blocking; used from one thread. Knows rows and bytes, not what a response is. A write is whole or
not there, also when the process is killed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from server.engine.cache_folder import make_private

log = logging.getLogger(__name__)

FILE = "responses-1.sqlite3"
ROW_BYTES = 256  # what a row takes beside its body, about
_BUSY_S = 10.0
# Errors that say nothing of what is in the file. The others do: damage to its header or schema has
# all kinds of names.
_ELSEWHERE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
)

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    size INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS sizes ON responses (number, size);
"""
_PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",
    "PRAGMA secure_delete = ON",
    f"PRAGMA journal_size_limit = {16 << 20}",
)


class Table:
    """The rows in `folder`, of at most `most_bytes` in all; None keeps them in memory. A file that
    is damaged is put aside, whenever that is found, and a new one begun. Every method raises
    sqlite3.Error; opening raises OSError, too."""

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._path = None if folder is None else folder / FILE
        self._rows: sqlite3.Connection | None = None
        if folder is not None:
            make_private(folder)
        self._with(lambda rows: None)

    def get(self, id: str, tenant: str) -> bytes | None:
        query = "SELECT body FROM responses WHERE id = ? AND tenant = ?"
        row = self._with(lambda rows: rows.execute(query, (id, tenant)).fetchone())
        return row[0] if row is not None and isinstance(row[0], bytes) else None

    def put(self, id: str, tenant: str, body: bytes) -> bool:
        """Keeps `body`, in place of the oldest where there is no room; whether it can be kept."""
        size = len(body) + ROW_BYTES
        if size > self._most_bytes:
            return False

        def write(rows: sqlite3.Connection) -> bool:
            with rows:
                rows.execute(
                    "INSERT OR REPLACE INTO responses (id, tenant, size, body) VALUES (?, ?, ?, ?)",
                    (id, tenant, size, body),
                )
                return _drop_oldest(rows, self._most_bytes)

        if self._with(write):
            self._shrink()
        return True

    def delete(self, id: str, tenant: str) -> bool:
        """Whether it was there."""

        def remove(rows: sqlite3.Connection) -> bool:
            with rows:
                query = "DELETE FROM responses WHERE id = ? AND tenant = ?"
                return rows.execute(query, (id, tenant)).rowcount > 0

        gone = self._with(remove)
        if gone:
            self._shrink()
        return gone

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    def __del__(self) -> None:
        self.close()

    def _shrink(self) -> None:
        """Gives the pages that became free back."""
        # Not execute(): it stops after the first page, as the statement has no columns.
        self._with(lambda rows: rows.executescript("PRAGMA incremental_vacuum"))

    def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` with the rows; once more with an empty file where this one is damaged."""
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)  # some are Python's own
            if self._path is None or code is None or code & 0xFF in _ELSEWHERE:
                raise
            self.close()
            _put_aside(self._path, error)
        return work(self._opened())

    def _opened(self) -> sqlite3.Connection:
        if self._rows is None:
            self._rows = _opened(self._path or ":memory:")
        return self._rows


def _drop_oldest(rows: sqlite3.Connection, most_bytes: int) -> bool:
    """Whether some had to go."""
    (total,) = rows.execute("SELECT total(size) FROM responses").fetchone()
    excess, last = total - most_bytes, None
    with closing(rows.execute("SELECT number, size FROM responses ORDER BY number")) as sizes:
        for number, size in sizes:
            if excess <= 0:
                break
            last = number
            excess -= size if isinstance(size, int) else 0  # damage can make it anything
    if last is not None:
        rows.execute("DELETE FROM responses WHERE number <= ?", (last,))
    return last is not None


def _put_aside(path: Path, error: Exception) -> None:
    """So that it can be looked at; the one before it is gone."""
    aside = path.with_suffix(".damaged")
    log.warning("%s: %s; it is put aside as %s", path, error, aside.name)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    os.replace(path, aside)


def _opened(path: Path | str) -> sqlite3.Connection:
    # Whoever lets go of it closes it, and that may be another thread.
    rows = sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)
    rows.text_factory = bytes
    try:
        for pragma in _PRAGMAS:
            rows.execute(pragma).fetchall()
        rows.executescript(_SCHEMA)
    except BaseException:
        rows.close()
        raise
    return rows
