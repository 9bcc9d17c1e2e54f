"""Responses in one SQLite file: bounded, oldest out first, each tenant's apart.

Blocking; used from one thread. Knows rows and bytes, not what a response is. A write is whole or
not there, also when the process is killed.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from server.engine.cache_folder import make_private

log = logging.getLogger(__name__)

FILE = "responses-1.sqlite3"
KEY_FILE = "reasoning.key"
ROW_BYTES = 256  # what a row takes beside its body, about
_BUSY_S = 10.0
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

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
        return None if row is None else bytes(row[0])

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
        self._with(lambda rows: rows.execute("PRAGMA incremental_vacuum").fetchall())

    def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` with the rows; once more with an empty file where this one is damaged."""
        try:
            return work(self._opened())
        except sqlite3.DatabaseError as error:
            if self._path is None or error.sqlite_errorcode & 0xFF not in _DAMAGED:
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
            excess -= size
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
    try:
        for pragma in _PRAGMAS:
            rows.execute(pragma).fetchall()
        rows.executescript(_SCHEMA)
    except BaseException:
        rows.close()
        raise
    return rows


def kept_key(folder: Path | None, length: int) -> bytes:
    """The key that lies in `folder`, made there where there is none; without a folder a new one.
    Raises OSError."""
    new = secrets.token_bytes(length)
    if folder is None:
        return new
    make_private(folder)
    path = folder / KEY_FILE
    partial = folder / f"{KEY_FILE}.{os.getpid()}"
    if not path.exists():
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(new)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(partial, path)  # of two processes that make one, the first has made it
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != length:
        raise OSError(f"{path} is damaged: remove it, and a new key is made")
    return key
