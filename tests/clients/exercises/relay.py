"""A relay between an agent and the server, in the exercise's own process.

It writes down what went by and refuses every other host (agents are given it as their proxy). The
demo is too small for an agent, so requests are changed in two ways: one request's tool choice from
the model's to a named tool, since the round trip is what is tried, and the longest answer to a
length that ends soon where the demo loses itself. Otherwise bodies pass as they come.
"""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LONGEST = 1024  # tokens of one answer
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
        body = self._changed(seen, body)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP}
        target = self.server.target
        connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=600)
        try:
            connection.request(self.command, self.path, body or None, headers)
            self._answer(connection.getresponse(), seen)
        finally:
            connection.close()

    def _changed(self, seen: Passed, body: bytes) -> bytes:
        given = seen.request
        if self.command != "POST" or not given or "model" not in given:
            return body
        name = "max_output_tokens" if seen.path.endswith("/responses") else "max_tokens"
        name = "max_completion_tokens" if "max_completion_tokens" in given else name
        changes: dict[str, Any] = {name: min(LONGEST, given.get(name) or LONGEST)}
        if seen.path.endswith("count_tokens"):
            changes = {}
        offered = {tool.get("name") or tool.get("function", {}).get("name")
                   for tool in given.get("tools") or []}  # fmt: skip
        tool = self.server.force
        if tool and tool in offered and not seen.has_result:
            self.server.force = ""
            seen.forced = True
            changes["tool_choice"] = _choice(seen.path, tool)
        return json.dumps({**given, **changes}).encode()

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


def _choice(path: str, tool: str) -> dict[str, Any]:
    """The named tool choice of the path's dialect."""
    if path.endswith("/messages"):
        return {"type": "tool", "name": tool}
    if path.endswith("/responses"):
        return {"type": "function", "name": tool}
    return {"type": "function", "function": {"name": tool}}


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
