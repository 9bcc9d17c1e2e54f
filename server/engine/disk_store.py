"""The files of one checkpoint's cached prompts, their index, and the room they may take.

Keeps index and folder in agreement while other processes write and remove there too. Knows entries
and files; not tokens, tenants or arrays. find-and-forget calls may come from any thread; sync() and
make_room() from one at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from server.engine import cache_folder
from server.engine.cache_file import Damaged, Entry, Kind, Tensor, read_entry, read_tensors
from server.engine.cache_folder import Listed
from server.engine.disk_index import DiskIndex, on_disk

log = logging.getLogger(__name__)

MAX_ENTRIES = 20_000  # what an index may grow to
_FULLNESS = 0.95  # the part of the cap that is left after room had to be made
_OTHERS_S = 60.0  # how often other models' folders are looked at
_YOUNG_S = 60.0  # for how long a file may be ahead of what it stands on


class DiskStore:
    """`index` is to be used under `lock`."""

    def __init__(
        self, top: Path, fingerprint: str, limit_bytes: int, clock: Callable[[], float]
    ) -> None:
        self.folder = cache_folder.subfolder(top, fingerprint)
        self.lock = threading.Lock()
        self.index = DiskIndex()
        self._top = top
        self._fingerprint = fingerprint
        self._limit = limit_bytes
        self._clock = clock
        self._seen = 0  # the folder's time of change when its names were last in the index
        self._others: list[Listed] = []
        self._others_at: float | None = None

    def open(self) -> None:
        """Makes the folder where it is missing, and reads the headers in it. OSError."""
        cache_folder.make_private(self._top)
        cache_folder.make_private(self.folder)
        self.sync()

    def get(self, kind: Kind, address: bytes) -> Entry | None:
        with self.lock:
            return self.index.get(kind, address)

    def path(self, entry: Entry) -> Path:
        return self.folder / entry.name

    def read(self, entry: Entry) -> dict[str, Tensor] | None:
        """The tensors of an entry, checked; None, and the entry forgotten, when they are not to be
        had. A damaged file is removed."""
        try:
            found, tensors = read_tensors(self.path(entry), self._fingerprint)
        except FileNotFoundError:
            self.forget(entry)  # another process needed the room
        except Damaged as error:
            self.condemn(entry, error)
        except OSError as error:
            log.warning("prompt cache on disk: %s cannot be read: %s", entry.name, error)
            self.forget(entry)
        else:
            if found == entry:
                return tensors
            with self.lock:
                self.index.add(found, self._clock())  # another process put its own there
        return None

    def condemn(self, entry: Entry, why: Exception) -> None:
        """Removes a file that is not what it should be."""
        log.warning("prompt cache on disk: %s is damaged and removed: %s", entry.name, why)
        self.forget(entry)

    def forget(self, entry: Entry) -> None:
        """Takes an entry out of the index and off the disk, with what stands on it."""
        with self.lock:
            removed = self.index.discard(entry.kind, entry.address)
        for gone in removed:
            _unlink(self.path(gone))

    def add(self, entry: Entry) -> None:
        """Takes in an entry whose file was just written here."""
        with self.lock:
            self.index.add(entry, self._clock())
        self._seen = self._changed()

    def use(self, entry: Entry) -> float:
        """Notes that an entry is used, and with it what it stands on; returns the time."""
        now = self._clock()
        with self.lock:
            if self.index.get(entry.kind, entry.address) is not None:
                self.index.touch(entry, now)
        return now

    def renew(self, state: Entry, now: float) -> None:
        """Writes down for later processes that a state was used. Its span carries the time for all
        that is below it."""
        for kind in ("span", "state"):
            with contextlib.suppress(OSError):
                os.utime(self.path(replace(state, kind=kind)), (now, now))

    def sync(self) -> None:
        """Takes in what other processes changed in the folder."""
        stamp = self._changed()
        if stamp == self._seen:
            return
        files: dict[tuple[Kind, bytes], Listed] = {
            (item.kind, item.address): item for item in cache_folder.listed(self.folder)
        }
        with self.lock:
            for entry in self.index.missing(files):
                self.index.discard(entry.kind, entry.address)
            known = {(entry.kind, entry.address): entry for entry in self.index.entries()}
        found = [
            (entry, item)
            for key, item in files.items()
            if (entry := known.get(key) or self._entry(item)) is not None
        ]
        # Parents first, and spans before the states at their ends.
        found.sort(key=lambda pair: (pair[0].end, pair[0].kind))
        with self.lock:
            for entry, item in found:
                self.index.add(entry, item.used)
            orphans = self.index.orphans()
            for entry in orphans:
                self.index.discard(entry.kind, entry.address)
        for entry in orphans:
            # What a young one stands on may have been written while the names were read.
            if files[entry.kind, entry.address].used < self._clock() - _YOUNG_S:
                _unlink(self.path(entry))
        self._seen = stamp

    def make_room(self, nbytes: int) -> bool:
        """Removes the least recently used files of all models until `nbytes` more fit the cap;
        whether they do."""
        if on_disk(nbytes) > self._limit:
            return False
        self._look_at_others()
        others = sum(on_disk(item.nbytes) for item in self._others)
        if self._fits(on_disk(nbytes) + others, 1.0):
            return True
        with self.lock:
            own = self.index.oldest_first()
        oldest: list[tuple[float, Entry | Listed]] = [*own, *((o.used, o) for o in self._others)]
        oldest.sort(key=lambda item: item[0])  # stable: what stands on others stays before them
        for _, item in oldest:
            if self._fits(on_disk(nbytes) + others, _FULLNESS):
                break
            if isinstance(item, Entry):
                self.forget(item)
            else:
                _unlink(item.path)
                self._others.remove(item)
                others -= on_disk(item.nbytes)
        self._seen = self._changed()
        return self._fits(on_disk(nbytes) + others, 1.0)

    def _fits(self, more: int, fullness: float) -> bool:
        with self.lock:
            room = self.index.nbytes + more <= self._limit * fullness
            return room and len(self.index) < MAX_ENTRIES * fullness

    def _look_at_others(self) -> None:
        now = time.monotonic()
        if self._others_at is None or now - self._others_at > _OTHERS_S:
            self._others_at = now
            folders = [f for f in cache_folder.subfolders(self._top) if f != self.folder]
            self._others = [item for folder in folders for item in cache_folder.listed(folder)]

    def _entry(self, item: Listed) -> Entry | None:
        try:
            return read_entry(item.path, self._fingerprint)
        except Damaged as error:
            log.warning(
                "prompt cache on disk: %s is damaged and removed: %s", item.path.name, error
            )
            _unlink(item.path)
        except OSError as error:
            log.debug("prompt cache on disk: %s: %s", item.path.name, error)
        return None

    def _changed(self) -> int:
        try:
            return self.folder.stat().st_mtime_ns
        except OSError:
            return 0


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("prompt cache on disk: %s cannot be removed: %s", path.name, error)
