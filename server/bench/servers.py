"""Processes of the servers that are measured, and the command that starts mxserve's own.

Knows processes, ports and logs. Nothing of other servers (peers.py) or of what is then sent to one.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from server.bench.client import BenchError, ChatClient

OURS = "mxserve"
DEMO = Path(__file__).resolve().parents[2] / "model" / "demo" / "checkpoint"
START_LIMIT_S = 600.0
STOP_LIMIT_S = 60.0


@dataclass(slots=True)
class ServerProcess:
    """A server started for a measurement; the context manager waits until it answers and ends it.

    model_name: what requests call the model; None is asked from the server.
    """

    name: str
    command: Sequence[str]
    port: int
    model_name: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process's id, None before it was started."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> ServerProcess:
        self._log = tempfile.TemporaryFile()
        try:
            self._start()
        except BaseException:
            self._log.close()  # nobody calls __exit__ then
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if self._log is not None:
            self._log.close()

    def called(self) -> str:
        """What requests call the model. Raises BenchError when the server does not say."""
        with ChatClient(self.url, model=self.model_name) as client:
            return client.model_id()

    def restart(self, *, kill: bool = False) -> None:
        """Ends the process, by SIGTERM or as a crash would, and starts it again on its port."""
        self._stop(kill=kill)
        self._start()

    def _start(self) -> None:
        try:
            with _signals_wait():
                self._process = subprocess.Popen(  # noqa: S603 - our own command line
                    list(self.command),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    env={**_neutral_environment(), **self.environment},
                )
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline:
            assert self._process is not None  # noqa: S101 - set in __enter__
            if self._process.poll() is not None:
                raise BenchError(
                    f"{self.name} ended with status {self._process.returncode}:\n{self._log_tail()}"
                )
            try:
                if httpx.get(f"{self.url}/health", timeout=5.0).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise BenchError(f"{self.name} was not ready in {START_LIMIT_S:.0f} s:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        """The last lines, read without moving the place where the process writes."""
        assert self._log is not None  # noqa: S101 - set in __enter__
        descriptor = self._log.fileno()
        text = os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-15:])

    def _stop(self, *, kill: bool = False) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal that comes within is handled afterwards: one that came while a process was being
    made would leave it behind, unknown."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda which, _: came.append(which))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def _neutral_environment() -> dict[str, str]:
    """This process's environment without the settings of the machine's own service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MXSERVE_")}


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_server(
    model: Path | None, *, flags: Sequence[str] = (), disk_cache: Path | None = None
) -> ServerProcess:
    """This package's server on a free port, with a folder's model or the demo.

    disk_cache: the folder of its disk tier, None for none: never the user's own, which would know
    the prompts of the last measurement.
    """
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    if model is not None:
        command += ["--model", str(model)]
    command += ["--disk-cache", "off" if disk_cache is None else str(disk_cache)]
    return ServerProcess(OURS, [*command, *flags], port)
