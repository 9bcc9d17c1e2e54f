"""Reads server-sent events from the bytes of a response; for the clients in this package.

Knows the wire format only: events end at an empty line, lines at LF or CRLF. Nothing of HTTP or of
what the data means. Lines are split as bytes, because text splitters also split at U+2028.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class EventReader:
    """Collects bytes and gives the data of each complete event, comments left out."""

    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[str]:
        """The data of every event that `chunk` completes. Raises UnicodeDecodeError for data
        that is not UTF-8."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events: list[str] = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data).decode())
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events
