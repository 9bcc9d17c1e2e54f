"""Files that a kill at any moment leaves whole or as they were."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file in one step: beside it, synced, renamed."""
    beside = path.with_name(path.name + PARTIAL)
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """The same for JSON, as checkpoints have it."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def sha256(path: Path) -> str:
    """Of a whole file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class PlacedFile:
    """A file of known size that is written at any places and gets its name when it is whole."""

    def __init__(self, path: Path, header: bytes, size: int) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._handle = os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._handle, size)
        self.write(0, header)

    @staticmethod
    def begun(path: Path, size: int) -> bool:
        """Whether a partial file of that size lies there."""
        partial = path.with_name(path.name + PARTIAL)
        return partial.is_file() and partial.stat().st_size == size

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Writes all of `data` from byte `start` on."""
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(self._handle, view, start)
            view, start = view[written:], start + written

    def sync(self) -> None:
        """What was written survives a crash from here on."""
        os.fsync(self._handle)

    def finish(self) -> None:
        """Gives the file its name."""
        self.sync()
        self.close()
        self._partial.replace(self._path)
        sync_folder(self._path.parent)

    def close(self) -> None:
        os.close(self._handle)
