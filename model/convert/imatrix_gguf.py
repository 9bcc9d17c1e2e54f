"""The GGUF container, as far as an imatrix needs it: metadata and float32 tensors.

Knows the bytes of versions 2 and 3 (little-endian), and nothing of what the tensors mean.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np

from model.convert.prescale import Floats
from model.errors import CheckpointError

Metadata = dict[str, Any]
Tensors = dict[str, Floats]

_MAGIC: Final = b"GGUF"
_ALIGNMENT: Final = 32
_VERSIONS: Final = (2, 3)
_FLOAT32: Final = 0  # ggml's number of the type of a tensor
_MOST_DIMENSIONS: Final = 4
_UINT32, _STRING, _ARRAY = 4, 8, 9
# ggml's number of the type of a value -> its struct code.
_SCALARS: Final = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


def read_gguf(path: Path) -> tuple[Metadata, Tensors]:
    """(metadata, tensor name -> float32 array with the slowest axis first) of a file.

    Raises CheckpointError where it is no GGUF file, is cut short, or holds other tensors than
    float32 ones.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    return _Reader(path, data).file()


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Floats]) -> None:
    """Writes a file of version 3, whole or not at all. Values of the metadata are strings, lists of
    strings, or whole numbers that fit 32 bits without a sign."""
    head = [_MAGIC, struct.pack("<IQQ", _VERSIONS[-1], len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]
        head.append(_string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes))
        head.append(struct.pack("<IQ", _FLOAT32, offset))
        offset += _padded(4 * tensor.size)
    start = b"".join(head)
    whole = [start, bytes(-len(start) % _ALIGNMENT)]
    for tensor in tensors.values():
        data = np.ascontiguousarray(tensor, "<f4").tobytes()
        whole += [data, bytes(-len(data) % _ALIGNMENT)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(b"".join(whole))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _padded(size: int) -> int:
    return size + -size % _ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, list):
        texts = b"".join(_string(text) for text in value)
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + texts
    return struct.pack("<II", _UINT32, value)


class _Reader:
    """A place in the bytes of a file; whatever leads past their end is an error."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._at = path, data, 0

    def file(self) -> tuple[Metadata, Tensors]:
        if (magic := self._bytes(4, "the magic number")) != _MAGIC:
            raise self._error(
                "expected a GGUF file (llama-imatrix --output-format gguf), found one that begins "
                f"with {magic!r}; the older .dat form is not read"
            )
        version = self._unpack("I", "the version")
        if version not in _VERSIONS:
            raise self._error(f"expected GGUF of version 2 or 3, little-endian, found {version}")
        tensors = self._unpack("Q", "the number of tensors")
        keys = self._unpack("Q", "the number of metadata keys")
        metadata: Metadata = {}
        for _ in range(keys):
            key = self._string("a metadata key")
            metadata[key] = self._value(self._unpack("I", key), key)
        infos = [self._info() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise self._error(f"general.alignment: expected a whole number, found {alignment!r}")
        start = self._at + -self._at % alignment
        return metadata, {name: self._tensor(name, shape, start + at) for name, shape, at in infos}

    def _info(self) -> tuple[str, tuple[int, ...], int]:
        """(name, shape with the slowest axis first, offset)."""
        name = self._string("the name of a tensor")
        count = self._unpack("I", name)
        if count > _MOST_DIMENSIONS:
            raise self._error(f"{name}: expected at most {_MOST_DIMENSIONS} axes, found {count}")
        shape = tuple(self._unpack("Q", name) for _ in range(count))[::-1]
        kind, offset = self._unpack("I", name), self._unpack("Q", name)
        if kind != _FLOAT32:
            raise self._error(
                f"{name}: expected float32 (type 0), found type {kind}; is this a model, not an "
                "imatrix?"
            )
        return name, shape, offset

    def _tensor(self, name: str, shape: tuple[int, ...], offset: int) -> Floats:
        end = offset + 4 * prod(shape)
        if end > len(self._data):
            raise self._error(f"{name}: expected {end} bytes in the file, found {len(self._data)}")
        data = self._data[offset:end]
        return np.frombuffer(data, "<f4").reshape(shape)

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string(key)
        if kind == _ARRAY:
            inner, count = self._unpack("I", key), self._unpack("Q", key)
            if inner == _ARRAY:
                raise self._error(f"{key}: expected a list of values, found one of lists")
            if count > len(self._data):  # each item has a byte at least
                raise self._error(f"{key}: {count} items in a file of {len(self._data)} bytes")
            return [self._value(inner, key) for _ in range(count)]
        if kind not in _SCALARS:
            raise self._error(f"{key}: a value of unknown type {kind}")
        return self._unpack(_SCALARS[kind], key)

    def _string(self, what: str) -> str:
        data = self._bytes(self._unpack("Q", what), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._error(f"{what}: expected text in UTF-8, found {data[:40]!r}") from None

    def _unpack(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}"), what))[0]

    def _bytes(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise self._error(f"cut short: {what} would end at byte {end} of {len(self._data)}")
        found = self._data[self._at : end]
        self._at = end
        return found

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {text}")
