"""A server that speaks the wire of chat completions and answers what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Iterator[str]]


@dataclass
class Script:
    """What the server says and what it was asked."""

    answer: Answer
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)


def chunk(delta: dict[str, Any] | None = None, **rest: Any) -> str:
    """One SSE frame; `finish_reason` and `usage` as keywords."""
    finish = rest.pop("finish_reason", None)
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return f"data: {json.dumps({'choices': choices, **rest}, ensure_ascii=False)}\n\n"


def whole_answer(
    text: str, thought: str = "", *, prompt: int = 100, cached: int = 0, gap_s: float = 0.0
) -> Iterator[str]:
    """A complete answer, a character for a token."""
    yield chunk({"role": "assistant", "content": ""})
    yield ": keep-alive\n\n"
    for character in thought:
        yield chunk({"reasoning_content": character})
    for character in text:
        time.sleep(gap_s)
        yield chunk({"content": character})
    yield chunk({}, finish_reason="stop")
    yield chunk(
        usage={
            "prompt_tokens": prompt,
            "completion_tokens": len(text) + len(thought) + 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
    )
    yield "data: [DONE]\n\n"


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Runs the server; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, json.dumps({"data": [{"id": "scripted"}]}).encode())

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.loads(self.rfile.read(length))
            script.bodies.append(body)
            script.headers.append({name.title(): value for name, value in self.headers.items()})
            if script.status != 200:
                self._reply(script.status, "".join(script.answer(body)).encode())
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            try:
                for frame in script.answer(body):
                    self.wfile.write(frame.encode())
                    self.wfile.flush()
            except OSError:
                script.hung_up.set()

        def _reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
