"""A server that can be made to fail, and clients that look closely at how it does."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.server_with_faults import ServerWithFaults

FRANCE = "What is the capital of France?"
COUNT = "Count from 1 to 20."
BROKEN = "the accounts do not add up"  # in the log of a server that lost count
LONG = "Tell me everything. " * 1500  # several chunks of prefill


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def chat_body(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "temperature": 0, "reasoning_effort": "none", **fields}


@dataclass
class Reading:
    """A request that a thread of its own sends and reads to the end: its status, its frames."""

    url: str
    body: dict[str, Any]
    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    frames: list[str] = field(default_factory=list)
    text: str = ""
    cut: bool = False

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self.url, json=self.body, timeout=60) as reply:
                self.status, self.headers = reply.status_code, reply.headers
                for line in reply.iter_lines():
                    self.text += line
                    if line.startswith("data: "):
                        self.frames.append(line.removeprefix("data: "))
        except httpx.HTTPError:
            self.cut = True

    def end(self, seconds: float = 30) -> Reading:
        """Waits for its end."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the request hangs"
        return self

    @property
    def errors(self) -> list[str]:
        """Codes of all errors that came, as a body or as frames."""
        parts = self.frames if self.frames else [self.text]
        found = [json.loads(part) for part in parts if part.startswith("{")]
        return [part["error"]["code"] for part in found if "error" in part]

    @property
    def content(self) -> str:
        chunks = [json.loads(frame) for frame in self.frames if frame != "[DONE]"]
        deltas = [choice["delta"] for chunk in chunks for choice in chunk.get("choices", [])]
        return "".join(delta.get("content") or "" for delta in deltas)

    @property
    def finished(self) -> bool:
        return not self.cut and self.frames[-1:] == ["[DONE]"] and not self.errors

    @property
    def failed(self) -> bool:
        """It ended with one error, as its last frame, and not with a bare cut."""
        last = json.loads(self.frames[-1]) if self.frames else json.loads(self.text)
        return not self.cut and len(self.errors) == 1 and "error" in last


class FaultyServer(ServerWithFaults):
    """One that is asked for chat completions, and looked at closely."""

    @property
    def url(self) -> str:
        return f"{self.server.url}/v1/chat/completions"

    def calls(self) -> list[str]:
        """Every "prefill TOKENS" and "step ROWS" so far."""
        return (self.folder / "calls").read_text().splitlines()

    def health(self) -> dict[str, Any]:
        return httpx.get(f"{self.server.url}/health", timeout=10).json()

    def busy(self) -> int:
        health = self.health()
        return health["active"] + health["queued"]

    def send(self, text: str, **fields: Any) -> Reading:
        """Sends a streaming request; returns at once."""
        return Reading(self.url, chat_body(text, **{"stream": True, **fields}))

    def post(self, text: str, **fields: Any) -> httpx.Response:
        return httpx.post(self.url, json=chat_body(text, **fields), timeout=60)

    def ask(self, text: str = FRANCE, **fields: Any) -> dict[str, Any]:
        """The whole answer to one question, which must come."""
        response = self.post(text, **fields)
        assert response.status_code == 200, response.text
        return response.json()

    def settle(self) -> None:
        """Ends every fault, and waits until nothing is under way; slots and bytes must add up then:
        the server counts them when it is idle."""
        for path in self.folder.iterdir():
            if path.name != "calls":
                path.unlink()
        wait_for(lambda: self.busy() == 0)
        self.intact()

    def intact(self) -> None:
        """No count of slots and bytes has failed so far."""
        assert BROKEN not in self.server.output, self.server.output

    def serves(self) -> bool:
        """Whether a question is answered, with sense."""
        return "Paris" in self.ask()["choices"][0]["message"]["content"]

    def connect(self, text: str, **fields: Any) -> socket.socket:
        """A connection that has sent a request and reads nothing unless told to."""
        body = json.dumps(chat_body(text, **fields)).encode()
        host, port = self.server.url.removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)))
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        return sock


@pytest.fixture(scope="module")
def start_faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., FaultyServer]]:
    """Starts servers with faults; all are stopped after the module."""
    started: list[FaultyServer] = []

    def start(*flags: str) -> FaultyServer:
        started.append(FaultyServer.start(tmp_path_factory.mktemp("faults"), *flags))
        return started[-1]

    yield start
    for server in (faulty.server for faulty in started):
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(30)
        assert BROKEN not in server.output, server.output
