"""A relay between an agent and the server, in the exercise's own process.

It writes down what went by, refuses every other host (agents are given it as their proxy), and
can turn one request's tool choice from the model's to a named tool: the demo is too small to choose
among an agent's tools, and the round trip is what is tried. Otherwise bodies pass as they come.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


@dataclass(slots=True)
class Passed:
    """One request and its answer."""

    method: str
    path: str
    request: Any  # its JSON, or None
    status: int = 0
    answer: str = ""
    cache: str = ""  # the header x-mxserve-cache
    forced: bool = False

    @property
    def has_result(self) -> bool:
        """Whether the request brings a tool's result back."""
        given = self.request or {}
        items = [*(given.get("messages") or []), *(_list(given.get("input")))]
        blocks = [block for item in items for block in _list(item.get("content"))]
        kinds = {item.get("role") for item in items} | {i.get("type") for i in [*items, *blocks]}
        return bool(kinds & {"tool", "function_call_output", "tool_result"})


class Relay(ThreadingHTTPServer):
    """On a free port of localhost. `force` names the tool of the next request that offers it."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.force = ""
        self.passed: list[Passed] = []
        self.refused: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An agent that leaves early is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay  # type: ignore[assignment]

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr: it is the exercise's."""

    def do_CONNECT(self) -> None:
        self.server.refused.add(self.path)
        self.send_error(403)

    def _relay(self) -> None:
        if not self.path.startswith("/"):
            self.server.refused.add(urlsplit(self.path).netloc)
            self.send_error(403)
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        seen = Passed(self.command, self.path.partition("?")[0], _json(body))
        self.server.passed.append(seen)
        body = self._forced(seen, body)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        target = self.server.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=600)
        try:
            connection.request(self.command, self.path, body or None, headers)
            self._answer(connection.getresponse(), seen)
        finally:
            connection.close()

    def _forced(self, seen: Passed, body: bytes) -> bytes:
        name = self.server.force
        offered = {tool.get("name") or tool.get("function", {}).get("name")
                   for tool in (seen.request or {}).get("tools") or []}  # fmt: skip
        if not name or name not in offered or seen.has_result:
            return body
        self.server.force = ""
        seen.forced = True
        if seen.path.endswith("/messages"):
            choice: dict[str, Any] = {"type": "tool", "name": name}
        elif seen.path.endswith("/responses"):
            choice = {"type": "function", "name": name}
        else:
            choice = {"type": "function", "function": {"name": name}}
        return json.dumps({**seen.request, "tool_choice": choice}).encode()

    def _answer(self, answer: http.client.HTTPResponse, seen: Passed) -> None:
        seen.status = answer.status
        seen.cache = answer.headers.get("x-mxserve-cache", "")
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        while piece := answer.read1(65536):
            seen.answer += piece.decode("utf-8", "replace")
            self.wfile.write(piece)
            self.wfile.flush()

    do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = do_OPTIONS = _relay


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
