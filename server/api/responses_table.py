"""Responses in one SQLite file: bounded, oldest out first, each tenant's apart.

Blocking; used from one thread. Knows rows and bytes, not what a response is. A write is whole or
not there, also when the process is killed.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from server.engine.cache_folder import make_private

log = logging.getLogger(__name__)

FILE = "responses-1.sqlite3"
KEY_FILE = "reasoning.key"
ROW_BYTES = 256  # what a row takes beside its body, about
_BUSY_S = 10.0

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
    """The rows in `folder`, of at most `most_bytes` in all; None keeps them in memory. Every
    method raises sqlite3.Error; opening raises OSError, too."""

    def __init__(self, folder: Path | None, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        if folder is None:
            self._rows = _opened(":memory:")
            return
        make_private(folder)
        path = folder / FILE
        try:
            self._rows = _opened(path)
        except sqlite3.OperationalError:  # locked, not readable, ...: nothing wrong with the file
            raise
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".damaged")
            log.warning("%s: %s; it is put aside as %s", path, error, aside.name)
            for ending in ("-wal", "-shm"):
                path.with_name(path.name + ending).unlink(missing_ok=True)
            os.replace(path, aside)
            self._rows = _opened(path)

    def get(self, id: str, tenant: str) -> bytes | None:
        query = "SELECT body FROM responses WHERE id = ? AND tenant = ?"
        row = self._rows.execute(query, (id, tenant)).fetchone()
        return None if row is None else bytes(row[0])

    def put(self, id: str, tenant: str, body: bytes) -> bool:
        """Keeps `body`, in place of the oldest where there is no room; whether it can be kept."""
        size = len(body) + ROW_BYTES
        if size > self._most_bytes:
            return False
        with self._rows:
            self._rows.execute(
                "INSERT OR REPLACE INTO responses (id, tenant, size, body) VALUES (?, ?, ?, ?)",
                (id, tenant, size, body),
            )
            dropped = self._drop_oldest()
        if dropped:
            self._shrink()
        return True

    def delete(self, id: str, tenant: str) -> bool:
        """Whether it was there."""
        with self._rows:
            query = "DELETE FROM responses WHERE id = ? AND tenant = ?"
            gone = self._rows.execute(query, (id, tenant)).rowcount > 0
        if gone:
            self._shrink()
        return gone

    def _drop_oldest(self) -> bool:
        (total,) = self._rows.execute("SELECT total(size) FROM responses").fetchone()
        excess, last = total - self._most_bytes, None
        with closing(self._rows.execute("SELECT number, size FROM responses ORDER BY number")) as c:
            while excess > 0:
                last, size = c.fetchone()
                excess -= size
        if last is not None:
            self._rows.execute("DELETE FROM responses WHERE number <= ?", (last,))
        return last is not None

    def _shrink(self) -> None:
        """Gives the pages that became free back."""
        self._rows.execute("PRAGMA incremental_vacuum").fetchall()


def _opened(path: Path | str) -> sqlite3.Connection:
    rows = sqlite3.connect(path, timeout=_BUSY_S)
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
