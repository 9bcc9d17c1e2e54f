"""A relay between an agent and the server, in the exercise's own process.

It writes down what went by and refuses every other host (agents are given it as their proxy). The
demo is too small for an agent, so requests are changed: one request's tool choice from the model's
to one call of a named tool, since the round trip is what is tried; the schema of that tool, in
every request, so that it allows only the call that is wanted, whatever the demo likes; the
temperature to 0, so that two runs say the same; and, since the demo loses itself in long prompts, a
penalty for repetition, a budget of thinking and a limit of every answer. Otherwise bodies pass as
they come.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LONGEST = 1024  # tokens of one answer
THOUGHT = 256  # tokens of its thought
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


@dataclass(slots=True)
class Passed:
    """One request and its answer, read alike in the three dialects."""

    method: str
    path: str
    request: Any  # its JSON, or None
    status: int = 0
    answer: str = ""
    forced: bool = False

    @property
    def reused(self) -> int:
        """Tokens of the prompt that came from the cache."""
        return self._told("reused_tokens")

    @property
    def tokens(self) -> int:
        """Tokens of the prompt."""
        return self.reused + self._told("prefilled_tokens")

    def _told(self, name: str) -> int:
        found = re.search(rf'"{name}": ?(\d+)', self.answer)
        return int(found[1]) if found else 0

    @property
    def results(self) -> list[str]:
        """What the request brings back of tools that were run, as JSON."""
        given = self.request or {}
        items = [*objects(given.get("messages")), *objects(given.get("input"))]
        blocks = [block for item in items for block in objects(item.get("content"))]
        kinds = ("function_call_output", "tool_result")
        return [
            json.dumps(found)
            for found in [*items, *blocks]
            if found.get("role") == "tool" or found.get("type") in kinds
        ]

    @property
    def text(self) -> str:
        """The answer's text without its thoughts and calls, of a stream or whole."""
        return "".join(piece for event in self._events() for piece in texts(event))

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self.answer.splitlines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])
        if self.answer.startswith("{"):
            yield json.loads(self.answer)


class Relay(ThreadingHTTPServer):
    """On a free port of localhost. `force` names the tool of the next request that offers it;
    `pinned` has, by the names of tools, the only arguments they take. What passed is written to
    the file `record`, a line of JSON for each request."""

    daemon_threads = True

    def __init__(self, target: str, record: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.record = record
        self.force = ""
        self.pinned: dict[str, dict[str, Any]] = {}
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
            if self.server.record:
                with self.server.record.open("a") as file:
                    file.write(json.dumps(asdict(seen)) + "\n")

    def _changed(self, seen: Passed, body: bytes) -> bytes:
        given = seen.request
        if self.command != "POST" or not given or "model" not in given:
            return body
        name = "max_output_tokens" if seen.path.endswith("/responses") else "max_tokens"
        name = "max_completion_tokens" if "max_completion_tokens" in given else name
        longest = min(LONGEST, given.get(name) or LONGEST)
        changes: dict[str, Any] = {name: longest, "temperature": 0}
        if seen.path.endswith("count_tokens"):
            changes = {}
        else:
            changes |= {"frequency_penalty": 0.5, **_less_thought(seen.path, given)}
        offered = {_name(tool): tool for tool in given.get("tools") or []}
        for name in self.server.pinned.keys() & offered.keys():
            _pin(offered[name], self.server.pinned[name])
        tool = self.server.force
        if tool and tool in offered and not seen.results:
            self.server.force = ""
            seen.forced = True
            changes |= _choice(seen.path, tool)
        return json.dumps({**given, **changes}).encode()

    def _answer(self, answer: http.client.HTTPResponse, seen: Passed) -> None:
        seen.status = answer.status
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


def _name(tool: dict[str, Any]) -> str:
    return tool.get("name") or tool.get("function", {}).get("name") or ""


def _pin(tool: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Leaves the tool one value of each of these arguments, all required, and no other argument."""
    inner = tool.get("function", tool)
    key = "input_schema" if "input_schema" in inner else "parameters"
    given = inner[key]["properties"]
    kept = {
        name: {**({"type": "string"} if isinstance(value, str) else {}), "enum": [value],
               "description": given[name].get("description", "")}
        for name, value in arguments.items()
    }  # fmt: skip
    inner[key] = {"type": "object", "properties": kept, "required": [*kept],
                  "additionalProperties": False}  # fmt: skip


def _choice(path: str, tool: str) -> dict[str, Any]:
    """One call of the tool, in the path's dialect."""
    if path.endswith("/messages"):
        choice = {"type": "tool", "name": tool, "disable_parallel_tool_use": True}
        return {"tool_choice": choice}
    named = {"name": tool} if path.endswith("/responses") else {"function": {"name": tool}}
    return {"tool_choice": {"type": "function", **named}, "parallel_tool_calls": False}


def _less_thought(path: str, given: dict[str, Any]) -> dict[str, Any]:
    """A budget of thinking in the path's dialect, beside what the request says of it."""
    if path.endswith("/messages"):
        said = given.get("thinking") or {"type": "disabled"}
        thinks = said["type"] != "disabled"
        return {"thinking": {**said, "budget_tokens": THOUGHT}} if thinks else {}
    if path.endswith("/responses"):
        return {"reasoning": {**(given.get("reasoning") or {}), "max_tokens": THOUGHT}}
    return {"thinking_budget": THOUGHT}


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def texts(event: dict[str, Any]) -> Iterator[str]:
    """The pieces of text in one event of a stream, or in a whole answer."""
    for choice in objects(event.get("choices")):
        yield (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    if event.get("type") == "response.output_text.delta":
        yield event["delta"]
    if event.get("type") == "content_block_delta":
        yield event["delta"].get("text", "")
    if event.get("type") == "message":
        yield from (block.get("text", "") for block in objects(event.get("content")))
    if event.get("object") == "response":
        for item in objects(event.get("output")):
            yield from (part.get("text", "") for part in objects(item.get("content"))
                        if part.get("type") == "output_text")  # fmt: skip


def objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
