"""`mxserve service status`: what the server itself says, beside what its supervisor says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from server.service import main
from server.service.health import span
from server.service.templates import files
from tests.conftest import ROOT, ServerProcess
from tests.server.service.conftest import Machine

KEY = "sesame"


@pytest.fixture
def answering() -> Iterator[Callable[[int, dict[str, Any]], int]]:
    """Starts a server whose /health has this status and body, the latter only with the key;
    returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: dict[str, Any], *, locked: bool = False) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told, code = body, status
                if self.path == "/health/ready":
                    told = {"status": body["status"]}
                elif locked and self.headers.get("Authorization") != f"Bearer {KEY}":
                    told, code = {"error": {"message": "no"}}, 401
                content = json.dumps(told).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_of_a_real_server(
    live_server: ServerProcess, machine: Machine, capsys: pytest.CaptureFixture[str]
):
    port = live_server.url.rsplit(":", 1)[1]
    assert main(["install", "--port", port], platform="darwin") == 0
    capsys.readouterr()
    assert main(["status"], platform="darwin") == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["service"] == "running, pid 4242"
    assert facts["health"] == "ok"
    assert facts["model"]
    assert facts["requests"].endswith("of 16 slots, 0 waiting")


def test_a_dead_engine_tells_its_reason(
    answering: Callable[..., int], machine: Machine, capsys: pytest.CaptureFixture[str]
):
    port = answering(503, {"status": "dead", "reason": "two steps failed", "uptime_s": 90061})
    assert main(["install", "--port", str(port)], platform="linux") == 0
    assert main(["status"], platform="linux") == 2
    shown = capsys.readouterr().out
    assert "dead: two steps failed" in shown
    assert "1 d 1 h" in shown


def test_figures_are_for_those_with_a_key(
    answering: Callable[..., int],
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    body = {"status": "ok", "model": "demo", "active": 1, "slots": 16, "queued": 2}
    port = answering(200, body, locked=True)
    assert main(["install", "--port", str(port)], platform="linux") == 0
    assert main(["status"], platform="linux") == 0
    shown = capsys.readouterr().out
    assert "MXSERVE_API_KEY" in shown
    assert "demo" not in shown
    monkeypatch.setenv("MXSERVE_API_KEY", KEY)
    assert main(["status"], platform="linux") == 0
    assert "1 of 16 slots, 2 waiting" in capsys.readouterr().out


def test_not_running_and_not_answering(
    answering: Callable[..., int], machine: Machine, capsys: pytest.CaptureFixture[str]
):
    port = answering(200, {"status": "ok"})
    assert main(["install", "--port", str(port)], platform="linux") == 0
    assert main(["stop"], platform="linux") == 0
    assert main(["status"], platform="linux") == 3
    told = capsys.readouterr()
    assert "not running, last exit status 70" in told.out
    assert "another process" in told.err


def test_lengths_of_time():
    told = [span(seconds) for seconds in (0.4, 61, 3600, 26 * 3600 + 59)]
    assert told == ["0 s", "1 min 1 s", "1 h 0 min", "1 d 2 h"]


@pytest.mark.parametrize("name", files())
def test_the_templates_are_what_the_command_writes(name: str):
    assert Path(ROOT, "deploy", name).read_bytes() == files()[name]
