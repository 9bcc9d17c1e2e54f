"""API keys: what is kept of one, and whether a key that was presented is among those.

Of a key only a salted SHA-256 is held. Keys made here have 256 random bits, so no slow hash is
needed: nobody finds one by trying. Knows hashes and the key file; not HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FORMAT = 1
MAX_KEYS = 256  # each is tried for every request
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PREFIX = "mxs_"
LOOK_EVERY_S = 1.0


class KeyFileError(ValueError):
    """A key file that cannot be used; str() says which and why."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of one key. created: Unix seconds, 0 where it is not known; salt and sha256 in
    hex."""

    name: str
    created: int
    salt: str
    sha256: str

    @classmethod
    def of(cls, name: str, key: str, created: int = 0) -> KeyRecord:
        salt = secrets.token_bytes(16)
        return cls(name, created, salt.hex(), _digest(salt, key).hex())

    def matches(self, key: str) -> bool:
        """Whether this is the record of `key`, in a time that does not depend on it."""
        found = _digest(bytes.fromhex(self.salt), key)
        return hmac.compare_digest(found, bytes.fromhex(self.sha256))


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode("utf-8", "surrogateescape")).digest()


def new_key() -> str:
    """A key nobody has: 256 random bits behind a prefix by which it is recognized."""
    return PREFIX + secrets.token_urlsafe(32)


def clients_key() -> str | None:
    """What a client of this package presents: the first of MXSERVE_API_KEY, where there is one."""
    return os.environ.get("MXSERVE_API_KEY", "").split(",")[0].strip() or None


def read_key_file(path: Path) -> list[KeyRecord]:
    """The keys in a key file; none where there is no such file. Raises KeyFileError, also where
    others than its owner may write to it."""
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o022:
                raise KeyFileError(f"{path} can be written by others: chmod 600 {path}")
            value = json.load(file)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        if isinstance(error, KeyFileError):
            raise
        raise KeyFileError(f"{path} cannot be read: {error}") from None
    try:
        if value["format"] != FORMAT:
            raise KeyFileError(f"{path} has another format ({value['format']!r:.20})")
        records = [_record(item) for item in value["keys"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, KeyFileError):
            raise
        raise KeyFileError(f"{path} is no key file of mxserve") from None
    if len(records) > MAX_KEYS:
        raise KeyFileError(f"{path} has more than {MAX_KEYS} keys")
    return records


def _record(item: dict[str, Any]) -> KeyRecord:
    record = KeyRecord(item["name"], int(item["created"]), item["salt"], item["sha256"])
    if not NAME.fullmatch(record.name) or len(bytes.fromhex(record.sha256)) != 32:
        raise ValueError(record.name)
    bytes.fromhex(record.salt)
    return record


def write_key_file(path: Path, records: Sequence[KeyRecord]) -> None:
    """Writes all of `records` in place of what was there, at once, readable by the owner alone.
    Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    text = json.dumps({"format": FORMAT, "keys": [asdict(record) for record in records]}, indent=1)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class KeyRing:
    """Every key that opens this server: those given (`plain`), and those of the file `path`, which
    is looked at again when it changes, so that a key that was removed is refused from then on."""

    def __init__(self, plain: Iterable[str] = (), path: Path | None = None) -> None:
        """Raises KeyFileError."""
        self._given = [KeyRecord.of(f"key-{i}", key) for i, key in enumerate(plain, 1)]
        self._path = path
        self._seen = self._version()
        self._looked_at = time.monotonic()
        self._filed = read_key_file(path) if path is not None else []

    def __bool__(self) -> bool:
        """Whether a key is needed: also where the file that should hold them is empty."""
        return bool(self._given) or self._path is not None

    def name_of(self, key: str) -> str | None:
        """The name of `key`, None where it opens nothing. Every key is tried, whichever it is."""
        self._look()
        found = None
        for record in (*self._given, *self._filed):
            if record.matches(key):
                found = record.name
        return found

    def _version(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat() if self._path is not None else None
        except OSError:
            return None
        return None if status is None else (status.st_ino, status.st_mtime_ns, status.st_size)

    def _look(self) -> None:
        now = time.monotonic()
        if self._path is None or now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        version = self._version()
        if version == self._seen:
            return
        self._seen = version
        try:
            self._filed = read_key_file(self._path)
        except KeyFileError as error:
            log.error("the keys stay as they were: %s", error)
            return
        log.info("%s has other keys now: %d", self._path, len(self._filed))
