"""What all tests share: property test settings, and one running server with the embedded demo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

import model  # noqa: F401 - its BLAS has to be there before any test imports mlx

# A shared or slow machine must not fail a property test for its time; pytest's own limit stays.
settings.register_profile("mxserve", deadline=None)
settings.load_profile("mxserve")

ROOT = Path(__file__).parents[1]
READY = re.compile(r"ready at (http://\S+)/v1")


@dataclass
class ServerProcess:
    """`mxserve serve` as its own process; `url` is set once it is ready."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def stop(self, timeout: float = 30) -> int:
        """Sends SIGTERM where it still runs; returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def start_server(
    *flags: str, seconds: float = 120, program: Sequence[str] = ("server",)
) -> ServerProcess:
    """Starts `mxserve serve`, or another `program` with its interface, on a free port; returns when
    it is ready or has ended. Nothing goes to the user's own folders."""
    command = [sys.executable, "-m", *program, "serve", "--port", "0", *flags]
    env = {"MXSERVE_DISK_CACHE": "off", "MXSERVE_RESPONSE_STORE": "memory", **os.environ}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    server = ServerProcess(process)
    settled = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                server.lines.append(line)
                if found := READY.search(line):
                    server.url = found[1]
                    settled.set()
        settled.set()

    threading.Thread(target=read, daemon=True).start()
    if not settled.wait(seconds):
        process.kill()
        process.wait()
        pytest.fail(f"the server did not start:\n{server.output}")
    return server


@pytest.fixture(scope="session")
def start_serving() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers with given flags; all are stopped at the end."""
    started: list[ServerProcess] = []

    def start(*flags: str) -> ServerProcess:
        started.append(start_server(*flags))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def live_server(start_serving: Callable[..., ServerProcess]) -> ServerProcess:
    """The embedded demo, served by a process of its own; shared by all tests of a run."""
    server = start_serving()
    assert server.url, server.output
    return server
