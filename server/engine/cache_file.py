"""One file of the prompt cache on disk: its name, its header, its checksum, how it is written.

A safetensors file whose header carries, first of all, the SHA-256 of the whole file with that
field zeroed; so nothing of it can change unseen. Written beside its place and renamed, readable by
its owner alone. Knows bytes, no arrays and no tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

FORMAT = "mxserve-prompt-cache-1"
ADDRESS = 16  # bytes
TOKENS = "tokens"  # the tensor of a span's token ids
Kind = Literal["span", "state"]

_CHECK = "0" * 64
_CHECK_AT = 8 + len('{"__metadata__":{"check":"')
_MAX_HEADER = 1 << 20
_NAME = re.compile(r"([0-9a-f]{32})\.(span|state)\.safetensors")
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(?:span|state)\.(\d+)-[0-9a-f]{8}\.tmp")


class Damaged(ValueError):
    """A file with the name of ours that is not what we wrote."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file holds: the keys and values of tokens [start, end) ("span"), or the recurrent
    state after token `end` ("state", where start is end).

    address: names all tokens before `end`, and whose they are; parent: that of the tokens before
    `start` (so a state's is its own), empty at 0. nbytes: of the whole file.
    """

    kind: Kind
    address: bytes
    parent: bytes
    start: int
    end: int
    nbytes: int

    @property
    def name(self) -> str:
        return f"{self.address.hex()}.{self.kind}.safetensors"


class Tensor(NamedTuple):
    """A tensor in a file that was read: type and shape as in the header, and its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def named_like_ours(name: str) -> tuple[Kind, bytes] | None:
    """Kind and address of a cache file's name; None for any other name."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return ("span" if found[2] == "span" else "state"), bytes.fromhex(found[1])


def temporary_of(name: str) -> int | None:
    """The process that writes under this temporary name; None for any other name."""
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else int(found[1])


def header(
    entry: Entry, fingerprint: str, tensors: Sequence[tuple[str, str, tuple[int, ...], int]]
) -> bytes:
    """The start of a file, for tensors given as (name, dtype, shape, bytes) in the order of their
    data. Its checksum is still blank; `entry.nbytes` does not matter."""
    metadata = {
        "check": _CHECK,
        "format": FORMAT,
        "fingerprint": fingerprint,
        "kind": entry.kind,
        "address": entry.address.hex(),
        "parent": entry.parent.hex(),
        "start": str(entry.start),
        "end": str(entry.end),
    }
    described: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, dtype, shape, nbytes in tensors:
        described[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [at, at + nbytes],
        }
        at += nbytes
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_entry(path: Path, fingerprint: str) -> Entry:
    """What the header of the file at `path` says; its tensors are not read. Raises Damaged when it
    cannot be ours, or is cut, and OSError."""
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise Damaged("no header")
        described = _described(opened.read(length))
    return _entry(described, path.name, fingerprint, size - 8 - length, size)


def read_tensors(path: Path, fingerprint: str) -> tuple[Entry, dict[str, Tensor]]:
    """What the file at `path` holds, and all its tensors. Raises Damaged when a single bit is not
    as it was written, and OSError."""
    data = path.read_bytes()
    view = memoryview(data)
    digest = hashlib.sha256(view[:_CHECK_AT])
    digest.update(_CHECK.encode())
    digest.update(view[_CHECK_AT + len(_CHECK) :])
    if data[_CHECK_AT : _CHECK_AT + len(_CHECK)] != digest.hexdigest().encode():
        raise Damaged("the checksum does not match")
    length = int.from_bytes(data[:8], "little")
    described = _described(data[8 : 8 + length])
    body = view[8 + length :]
    entry = _entry(described, path.name, fingerprint, body.nbytes, len(data))
    tensors: dict[str, Tensor] = {}
    for name, tensor in described.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            tensors[name] = Tensor(tensor["dtype"], tuple(tensor["shape"]), body[start:end])
    return entry, tensors


def _described(text: bytes) -> Mapping[str, Any]:
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged("header is not JSON") from error
    if not isinstance(described, dict):
        raise Damaged("header is not an object")
    return described


def _entry(
    described: Mapping[str, Any], name: str, fingerprint: str, body: int, size: int
) -> Entry:
    try:
        metadata = described["__metadata__"]
        if (metadata["format"], metadata["fingerprint"]) != (FORMAT, fingerprint):
            raise Damaged("of another format or model")
        entry = Entry(
            kind="span" if metadata["kind"] == "span" else "state",
            address=bytes.fromhex(metadata["address"]),
            parent=bytes.fromhex(metadata["parent"]),
            start=int(metadata["start"]),
            end=int(metadata["end"]),
            nbytes=size,
        )
        tensors = [tensor for key, tensor in described.items() if key != "__metadata__"]
        ending = max((tensor["data_offsets"][1] for tensor in tensors), default=0)
        shape = described[TOKENS]["shape"] if entry.kind == "span" else []
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, Damaged):
            raise
        raise Damaged("header lacks what we write") from error
    if ending != body:
        raise Damaged(f"{ending} bytes of tensors expected, {body} found")
    if entry.name != name:
        raise Damaged("header and name disagree")
    own = entry.end - entry.start
    if entry.kind == "span":
        fits = entry.start >= 0 and own > 0 and shape == [own]
    else:
        fits = own == 0 and entry.parent == entry.address
    if not fits:
        raise Damaged("header contradicts itself")
    return entry


class AtomicFile:
    """A file in the making. Nobody sees it under `path` before publish(); every method may raise
    OSError, after which discard() is due."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._path = path
        stem = path.name.removesuffix(".safetensors")
        self._temporary = path.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        self._digest = hashlib.sha256()
        self._file = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            self.write(head)
        except OSError:
            self.discard()
            raise

    def write(self, data: bytes) -> None:
        """Appends all of `data`."""
        self._digest.update(data)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def publish(self) -> None:
        """Puts the checksum in, waits for the disk and gives the file its name."""
        os.pwrite(self._file, self._digest.hexdigest().encode(), _CHECK_AT)
        os.fsync(self._file)
        file, self._file = self._file, -1
        os.close(file)
        os.replace(self._temporary, self._path)

    def discard(self) -> None:
        """Removes what was written; never raises."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1
        with contextlib.suppress(OSError):
            self._temporary.unlink()
