"""Layers around the application, as plain ASGI: request id, host, origin, key.

Plain ASGI only: a wrapped `receive` would hide a client's disconnect from the routes.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.caller import presented_key
from server.api.errors import http_error

access = logging.getLogger("server.access")

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
OPEN_PATHS = ("/health/live", "/health/ready")  # they tell a state, nothing else


class RequestId:
    """Gives every request an id, sends it back as x-request-id and request-id (the names that
    OpenAI's and Anthropic's clients look for), and logs one line for each."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _CLIENT_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        status = 0

        async def stamped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, stamped)
        finally:
            seconds = time.monotonic() - began
            path = scope["path"][:200]
            access.info("%s %s %d %.3fs %s", scope["method"], path, status, seconds, request_id)


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
    """Asks every path but the probes for the key, as Bearer or x-api-key."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = presented_key(Headers(scope=scope))
            if not hmac.compare_digest(given.encode(), self._key):
                text = "A valid API key is needed (Authorization: Bearer KEY)."
                told = {"WWW-Authenticate": "Bearer"}
                await http_error(scope, 401, text, told)(scope, receive, send)
                return
        await self._app(scope, receive, send)
