"""A stream of OpenAI's chunks as frames: the chunks, then `[DONE]`, or a last frame with the error.

Knows framing only; a dialect makes the chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from server.api import sse
from server.api.errors import engine_error_body
from server.engine.errors import EngineError
from server.engine.events import Event


class ChunkMaker(Protocol):
    """Makes events into chunks; `closing` ones follow once `complete`."""

    def add(self, event: Event) -> Iterable[dict[str, Any]]: ...
    @property
    def complete(self) -> bool: ...
    def closing(self) -> Iterable[dict[str, Any]]: ...


class Frames:
    """A streamed answer as frames."""

    def __init__(self, chunks: ChunkMaker) -> None:
        self._chunks = chunks

    def add(self, event: Event) -> Iterator[bytes]:
        return map(sse.frame, self._chunks.add(event))

    @property
    def complete(self) -> bool:
        return self._chunks.complete

    def closing(self) -> Iterator[bytes]:
        yield from map(sse.frame, self._chunks.closing())
        yield sse.DONE

    def failed(self, error: EngineError) -> Iterator[bytes]:
        yield sse.frame(engine_error_body(error)[1])
