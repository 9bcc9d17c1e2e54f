"""Layers around the application, as plain ASGI: request id and log line, limits of a request's
head, headers of every answer, host, origin, key.

Plain ASGI only: a wrapped `receive` would hide a client's disconnect from the routes.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.caller import presented_key
from server.api.errors import http_error
from server.keys import KeyRing
from server.request_record import RequestRecord, current

access = logging.getLogger("server.access")

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
OPEN_PATHS = ("/health/live", "/health/ready")  # they tell a state, nothing else
# What is asked for every few seconds is in the log only when it fails.
QUIET_PATHS = frozenset((*OPEN_PATHS, "/health", "/metrics"))
MAX_HEADERS = 100
MAX_HEAD_BYTES = 64 * 1024
SAFE_HEADERS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


class RequestId:
    """Gives every request an id, sends it back as x-request-id and request-id (the names that
    OpenAI's and Anthropic's clients look for), and tells `ended` of its record and the log in one
    line when it is over."""

    def __init__(self, app: ASGIApp, ended: Callable[[RequestRecord], None]) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _CLIENT_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        path = scope.get("raw_path", b"").decode("latin-1")[:200]
        client = (scope.get("client") or ("",))[0]
        record = RequestRecord(request_id, scope["method"][:20], path)
        record.client = None if client in ("", "127.0.0.1", "::1") else client
        state = scope.setdefault("state", {})
        state["request_id"], state["record"] = request_id, record
        current.set(record)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        finally:
            record.total_s = time.monotonic() - record.began
            record.route = getattr(scope.get("route"), "path_format", "")
            self._ended(record)
            quiet = scope["path"] in QUIET_PATHS and record.status < 400
            access.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %d %.3fs",
                record.method,
                record.path,
                record.status,
                record.total_s,
                extra={"fields": record.fields()},
            )


class SafeHeaders:
    """Gives every answer the headers that keep a browser from guessing, framing and storing it,
    unless a route has its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, safe)


class HeadLimits:
    """Refuses a request whose head has too many headers, or two ways to say where its body ends:
    a proxy before this server and this server might not agree."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            names = [name for name, _ in scope["headers"]]
            size = len(scope["raw_path"]) + len(scope["query_string"])
            size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
            if len(names) > MAX_HEADERS or size > MAX_HEAD_BYTES:
                text = f"A request may have {MAX_HEADERS} headers of {MAX_HEAD_BYTES} bytes."
                status = 431
            elif b"transfer-encoding" in names and b"content-length" in names:
                text, status = "Content-Length and Transfer-Encoding exclude each other.", 400
            else:
                text, status = "", 0
            if status:
                told = {"Connection": "close"}
                await http_error(scope, status, text, told)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Host:
    """Refuses other names than the server's own: a web page that points its name at this machine
    (DNS rebinding) is told apart by the Host it sends."""

    def __init__(self, app: ASGIApp, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._names:
                text = "The Host header names another server; see --allowed-host."
                await http_error(scope, 403, text)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def host_name(host: str) -> str:
    """The name in a Host header, without its port; "" when it is not one."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?", host)
    return match[1].lower() if match else ""


class Origin:
    """Refuses browser pages of other origins, which may send a simple POST without asking."""

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and not self._admits(origin, headers.get("host", "")):
                text = "Requests of this origin are not allowed; see --cors-origin."
                await http_error(scope, 403, text)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _admits(self, origin: str, host: str) -> bool:
        if "*" in self._allowed or origin in self._allowed:
            return True
        try:
            return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


class ApiKey:
    """Asks every path but the probes, and those of `also_open`, for a key, as Bearer or x-api-key.
    A header that comes twice is refused: who reads which is not for the client to choose."""

    def __init__(self, app: ASGIApp, keys: KeyRing, also_open: Iterable[str] = ()) -> None:
        self._app = app
        self._keys = keys
        self._open = frozenset((*OPEN_PATHS, *also_open))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open:
            headers = Headers(scope=scope)
            once = all(len(headers.getlist(n)) <= 1 for n in ("authorization", "x-api-key"))
            name = self._keys.name_of(presented_key(headers)) if once else None
            if name is None:
                text = "A valid API key is needed (Authorization: Bearer KEY)."
                told = {"WWW-Authenticate": "Bearer"}
                await http_error(scope, 401, text, told)(scope, receive, send)
                return
            scope["state"]["record"].key = name
        await self._app(scope, receive, send)
