"""uvicorn's HTTP/1.1 connection with limits of time and number, which it has not by itself.

A head that comes too slowly, a connection that says nothing, and a reader that takes nothing any
more end here; the time for a body and for a stream's next piece are the routes' own. Knows
sockets and uvicorn's protocol, nothing of requests.
"""

from __future__ import annotations

import asyncio
import http
import json
import logging
import resource
import uuid
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.errors import BAD_REQUEST, Kind, envelope
from server.one_write import OneWrite

log = logging.getLogger(__name__)

FILES = 256  # that a server has open besides its connections

_BUSY = Kind(503, "server_error", "too_many_connections")
_STOPPING = Kind(503, "server_error", "unavailable")
_MALFORMED = Kind(400, BAD_REQUEST, "invalid_http")
_TOO_SLOW = Kind(408, BAD_REQUEST, "request_timeout")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """connections: open at the same time; head_s: from the first byte that is awaited to the end
    of a request's head; send_s: how long a reader may take nothing."""

    connections: int
    head_s: float
    send_s: float


def limited(limits: ConnectionLimits) -> type[H11Protocol]:
    """uvicorn's `http` setting: connections with these limits."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


def room_for(connections: int) -> None:
    """Lets this process have so many connections open besides its own files, as far as the system
    allows: macOS starts services with 256 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("only %d files can be open: %s", soft, error)


class Connection(H11Protocol):
    """One connection. `limits` is set by limited()."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaiting: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            log.warning("more than %d connections: one was closed", self.limits.connections)
            self._answer(_BUSY, "The server has too many connections open.")
            return
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._idle and not self.transport.is_closing():
            self._await_head()
        elif not self._idle:
            self._stop_awaiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_sending()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_awaiting()
        self._unset_keepalive_if_required()
        self._stop_watching()

    def shutdown(self) -> None:
        """The server stops. A request that has not come whole would be refused once it has, so
        nobody waits for the rest of it."""
        incomplete = self.conn.their_state is h11.SEND_BODY
        if incomplete and self.conn.our_state is h11.SEND_RESPONSE:
            self._answer(_STOPPING, "The server is shutting down.")
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()

    def send_400_response(self, msg: str) -> None:
        self._answer(_MALFORMED, msg)

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: whoever asks for another protocol gets HTTP/1.1, and uvicorn's advice to install
        a library for WebSockets would help nobody."""

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered: its head, or what is left of one's body behind its
        answer, is still to come."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._awaiting is None:
            self._awaiting = self.loop.call_later(self.limits.head_s, self._no_head)

    def _stop_awaiting(self) -> None:
        if self._awaiting is not None:
            self._awaiting.cancel()
            self._awaiting = None

    def _no_head(self) -> None:
        self._awaiting = None
        if self.transport.is_closing() or not self._idle:
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._answer(_TOO_SLOW, f"No request within {self.limits.head_s:g} s.")
        else:
            self.transport.close()
        self._watch_sending()

    def _answer(self, kind: Kind, text: str) -> None:
        """Says why, where that can still be said, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps(envelope(text, kind)).encode()
            request_id = f"req_{uuid.uuid4().hex}".encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id),
                (b"connection", b"close"),
            ]
            reason = http.HTTPStatus(kind.status).phrase.encode()
            head = h11.Response(status_code=kind.status, headers=headers, reason=reason)
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._watch_sending()

    def _watch_sending(self) -> None:
        """Looks, until all is sent, whether the reader takes anything."""
        if self._sending is None:
            self._unsent = self.transport.get_write_buffer_size()
            if self._unsent:
                self._sending = self.loop.call_later(self.limits.send_s, self._look)

    def _stop_watching(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _look(self) -> None:
        self._sending = None
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent >= self._unsent and self._stuck():
            log.warning("a reader stopped reading for %g s; it was cut", self.limits.send_s)
            self.transport.abort()
            return
        self._watch_sending()

    def _stuck(self) -> bool:
        """Whether nothing can be added to what is unsent: it is a measure of the reader then."""
        return self.flow.write_paused or self.transport.is_closing() or self._idle
