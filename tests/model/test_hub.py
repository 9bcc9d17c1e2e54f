"""Hub ids: a download, what the hub's cache holds, and a hub that does not help, against a hub of
this process's own."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from model.loading import DEMO_FOLDER

COMMIT = "a" * 40
FILES = sorted(file.name for file in DEMO_FOLDER.iterdir())
PROGRAM = """
import sys
from model.errors import CheckpointError
from model.hub import hub_snapshot
try:
    print(hub_snapshot(sys.argv[1], answer_s=1.0))
except CheckpointError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as a download asks: one repository, owner/demo."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        cast(Hub, self.server).asked.append(path)
        match path.removeprefix("/").split("/"):
            case ["api", "models", "owner", "demo", "tree", *_]:
                sizes = ((name, (DEMO_FOLDER / name).stat().st_size) for name in FILES)
                self._json([{"type": "file", "path": n, "size": s, "oid": n} for n, s in sizes])
            case ["api", "models", "owner", "demo", *_]:
                names = [{"rfilename": name} for name in FILES]
                self._json({"id": "owner/demo", "sha": COMMIT, "siblings": names})
            case ["owner", "demo", "resolve", _, name] if name in FILES:
                self._send(200, (DEMO_FOLDER / name).read_bytes(), "application/octet-stream")
            case _:
                self._send(404, b"{}", "application/json")

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked_for(hub_id: str, url: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """What becomes of a hub id in a fresh process, which is where the hub's client reads its
    settings."""
    settings = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    ours = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, hub_id],
        env=ours | settings | {"NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_downloaded_once_and_then_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    first = asked_for("owner/demo", hub.url, tmp_path)
    folder = Path(first.stdout.strip())
    assert sorted(file.name for file in folder.iterdir()) == FILES
    for name in FILES:
        assert (folder / name).read_bytes() == (DEMO_FOLDER / name).read_bytes()
    hub.asked.clear()
    assert asked_for("owner/demo", hub.url, tmp_path).stdout == first.stdout
    assert not hub.asked


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_what_is_not_whole_is_completed(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = Path(asked_for("owner/demo", hub.url, tmp_path).stdout.strip())
    (folder / name).resolve().unlink()
    (folder / name).unlink()
    assert Path(asked_for("owner/demo", hub.url, tmp_path).stdout.strip()) == folder
    assert (folder / name).read_bytes() == (DEMO_FOLDER / name).read_bytes()


def test_a_hub_that_does_not_know_it(hub: Hub, tmp_path: Path) -> None:
    result = asked_for("owner/other", hub.url, tmp_path)
    assert result.stderr.startswith("refused: owner/other: no such folder here, and as a hub id")
    assert "404" in result.stderr


@pytest.mark.parametrize("listening", [True, False])
def test_a_hub_that_does_not_answer(tmp_path: Path, listening: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = asked_for("owner/demo", url, tmp_path)
    assert result.stderr.startswith("refused: owner/demo: no such folder here, and as a hub id")
