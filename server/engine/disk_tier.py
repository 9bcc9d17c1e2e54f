"""The prompt cache's second tier: files that outlive the process.

Reading happens in the caller's thread, when a prompt is looked up; writing in a thread of its own,
from copies that the caller makes piece by piece. A file is used only when its checksum, its model,
its tenant and every token of it are right; one that is not is removed. Trouble with the disk turns
writing off, or the whole tier, and is never raised. Several processes may share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from server.engine import cache_folder
from server.engine.background import Background
from server.engine.cache_file import ADDRESS, TOKENS, Damaged, Entry, Kind, header
from server.engine.cache_folder import default_folder
from server.engine.disk_saving import Saving
from server.engine.disk_store import DiskStore
from server.engine.ports import KVSpan, RecurrentSnapshot
from server.engine.prefix_tree import TOKEN

__all__ = ["Chain", "DiskTier", "default_folder"]

log = logging.getLogger(__name__)

QUEUE_BYTES = 64 << 20  # copied and waiting to be written


class Codec(Protocol):
    """States to bytes and back; see model.state_files."""

    def tensor_specs(self, state: Any, /) -> Sequence[tuple[str, str, tuple[int, ...], int]]: ...
    def tensor_pieces(self, state: Any, /) -> Iterator[bytes]: ...
    def read_span(self, tensors: Mapping[str, Any], length: int, /) -> KVSpan: ...
    def read_snapshot(self, tensors: Mapping[str, Any], position: int, /) -> RecurrentSnapshot: ...


@dataclass(frozen=True, slots=True)
class Chain:
    """A reusable prefix on the disk: `spans` in order cover it, `state` is at its end."""

    spans: tuple[Entry, ...]
    state: Entry


class DiskTier:
    """At most `limit_bytes` of files in a folder, over all models; the least recently used go
    first. Made by open()."""

    def __init__(self, store: DiskStore, fingerprint: str, limit_bytes: int, codec: Codec) -> None:
        self.limit_bytes = limit_bytes
        self._store = store
        self._fingerprint = fingerprint
        self._codec = codec
        self._queued: set[tuple[Kind, bytes]] = set()  # under the store's lock
        self._reading = self._writing = False
        self._thread = Background("mxserve-cache-writer", QUEUE_BYTES)

    @classmethod
    def open(
        cls,
        folder: Path,
        fingerprint: str,
        limit_bytes: int,
        *,
        label: str = "",
        codec: Codec | None = None,
        clock: Callable[[], float] = time.time,
    ) -> DiskTier:
        """The files of the model with `fingerprint` in `folder`, which is made where there is none.

        Reads the headers of the files, not their tensors. Never raises for trouble with the disk:
        the log has it, and the tier is off. label: the model's name, for people.
        """
        if codec is None:
            from model import state_files as codec
        store = DiskStore(folder, fingerprint, limit_bytes, clock)
        tier = cls(store, fingerprint, limit_bytes, codec)
        if limit_bytes <= 0:
            return tier
        began = time.monotonic()
        try:
            store.open()
        except OSError as error:
            log.warning("prompt cache on disk: off: %s", error)
            return tier
        tier._reading = tier._writing = True
        try:
            cache_folder.write_label(store.folder, label)
            for path in cache_folder.abandoned(store.folder):
                path.unlink(missing_ok=True)
            store.make_room(0)
        except OSError as error:
            tier._writing_off(error)
        took = (time.monotonic() - began) * 1e3
        log.info(
            "prompt cache on disk: %d files, %.1f MB, read in %.0f ms, in %s",
            tier.entries,
            tier.nbytes / 1e6,
            took,
            folder,
        )
        return tier

    @property
    def nbytes(self) -> int:
        """Bytes that this model's files take of the disk."""
        return self._store.index.nbytes

    @property
    def folder(self) -> Path | None:
        """Where this model's files are; None when nothing is written."""
        return self._store.folder if self._writing else None

    @property
    def entries(self) -> int:
        """This model's files."""
        return len(self._store.index)

    @property
    def reading(self) -> bool:
        """Whether anything may be found."""
        return self._reading

    @property
    def writing(self) -> bool:
        """Whether anything may be saved."""
        return self._writing

    @property
    def waiting_bytes(self) -> int:
        """Memory held by what waits to be written."""
        return self._thread.waiting_bytes

    def hasher(self, tenant: str) -> Any:
        """Fed with a prompt's tokens, four bytes each, `digest()[:ADDRESS]` is their address."""
        seed = f"{len(self._fingerprint)}:{self._fingerprint}{tenant}".encode()
        return hashlib.sha256(hashlib.sha256(seed).digest())

    # Reading, in the thread that owns the arrays.

    def find(self, tenant: str, data: bytes, beyond: int, limit: int) -> Chain | None:
        """The longest reusable prefix of the first `limit` tokens of `data` that has more than
        `beyond` of them."""
        if not self._reading:
            return None
        store = self._store
        with store.lock:
            ends = store.index.state_ends(beyond, limit)
        hasher, at = self.hasher(tenant), 0
        addresses: list[bytes] = []
        for end in ends:
            hasher.update(data[at * TOKEN : end * TOKEN])
            addresses.append(hasher.digest()[:ADDRESS])
            at = end
        with store.lock:
            for address in reversed(addresses):
                state = store.index.get("state", address)
                spans = store.index.chain(address) if state is not None else None
                if state is not None and spans is not None:
                    return Chain(tuple(spans), state)
        return None

    def read_span(self, entry: Entry, data: bytes) -> KVSpan | None:
        """The keys and values of `entry`, whose tokens stand at their place in `data`. None when
        they are not to be had; a file that is not what it should be is removed."""
        tensors = self._store.read(entry)
        if tensors is None:
            return None
        try:
            if tensors.pop(TOKENS).data != data[entry.start * TOKEN : entry.end * TOKEN]:
                raise Damaged("it has other tokens than its name says")
            return self._codec.read_span(tensors, entry.end - entry.start)
        except (KeyError, ValueError) as error:
            self._store.condemn(entry, error)
            return None

    def read_state(self, entry: Entry) -> RecurrentSnapshot | None:
        """The snapshot of `entry`; None as with read_span."""
        tensors = self._store.read(entry)
        if tensors is None:
            return None
        try:
            return self._codec.read_snapshot(tensors, entry.end)
        except ValueError as error:
            self._store.condemn(entry, error)
            return None

    def used(self, address: bytes) -> None:
        """Notes that the state at `address` served, for this process and those after it."""
        state = self._store.get("state", address)
        if state is not None and self._writing:
            now = self._store.use(state)
            self._thread.submit(lambda: self._store.renew(state, now))

    # Writing, the caller's part.

    def has(self, kind: Kind, address: bytes) -> bool:
        """Whether it is on the disk, or on its way."""
        with self._store.lock:
            queued = (kind, address) in self._queued
            return queued or self._store.index.get(kind, address) is not None

    def save(self, entry: Entry, tokens: bytes, state: Any) -> Saving:
        """Begins to write `state`, a span with its `tokens` or a snapshot without; `entry.nbytes`
        does not matter. Raises ValueError for what no file can hold."""
        specs = list(self._codec.tensor_specs(state))
        pieces = self._codec.tensor_pieces(state)
        if tokens:
            specs.insert(0, (TOKENS, "U32", (len(tokens) // TOKEN,), len(tokens)))
            pieces = itertools.chain([tokens], pieces)
        head = header(entry, self._fingerprint, specs)
        whole = replace(entry, nbytes=len(head) + sum(nbytes for *_, nbytes in specs))
        key = (entry.kind, entry.address)
        with self._store.lock:
            self._queued.add(key)
        below = self._store.get("span", entry.parent)
        if below is not None:
            self._store.use(below)  # what it stands on must not go to make it room

        def ended(error: OSError | None, stored: bool) -> None:
            if stored:
                self._store.add(whole)
            elif error is not None and not isinstance(error, FileNotFoundError):
                # A file that is gone was cleared away by somebody; anything else is the disk.
                self._writing_off(error)
            with self._store.lock:
                self._queued.discard(key)

        return Saving(
            self._thread,
            self._store.path(entry),
            head,
            pieces,
            admit=lambda: self._admit(whole.nbytes),
            ended=ended,
        )

    def flush(self, seconds: float) -> bool:
        """Waits until all that was handed over is written; whether that came in time."""
        return self._thread.idle(seconds)

    def close(self, seconds: float) -> None:
        """Writes what waits, for at most `seconds`, and ends the writer."""
        if not self._thread.close(seconds):
            log.warning("prompt cache on disk: there was no time to write everything")
            for path in cache_folder.temporaries(self._store.folder, os.getpid()):
                with contextlib.suppress(OSError):
                    path.unlink()
        self._reading = self._writing = False

    def _admit(self, nbytes: int) -> bool:
        if not self._writing:
            return False
        cache_folder.make_private(self._store.folder)  # it may have been cleared away
        self._store.sync()
        return self._store.make_room(nbytes)

    def _writing_off(self, error: OSError) -> None:
        if self._writing:
            self._writing = False
            log.warning("prompt cache on disk: no longer written to: %s", error)
