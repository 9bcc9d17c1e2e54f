"""Starts the servers that are measured: mxserve itself, and mlx-lm's in an environment of its own.

Knows processes, ports and pip. Nothing of what is then sent to a server.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx

from server.bench.client import BenchError

PEER = "mlx-lm"
PEER_VERSION = "0.32.2"
START_LIMIT_S = 600.0
STOP_LIMIT_S = 15.0


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
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**_neutral_environment(), **self.environment},
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

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
        assert self._log is not None  # noqa: S101 - set in __enter__
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()


def _neutral_environment() -> dict[str, str]:
    """This process's environment without the settings of the machine's own service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MXSERVE_")}


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_server(model: Path | None) -> ServerProcess:
    """This package's server on a free port, with a folder's model or the demo."""
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    if model is not None:
        command += ["--model", str(model)]
    return ServerProcess("mxserve", command, port)


def peer_server(model: Path, *, openblas: bool) -> ServerProcess:
    """mlx-lm's server on the same folder; installs it first when it is not there.

    openblas: on Linux, put OpenBLAS in front of the wheel's reference BLAS, as mxserve does.
    """
    port = free_port()
    command = [str(_peer_python()), "-m", "mlx_lm", "server"]
    command += ["--model", str(model), "--port", str(port), "--log-level", "WARNING"]
    extra = {"LD_PRELOAD": "libopenblas.so.0"} if openblas and sys.platform == "linux" else {}
    name = f"{PEER}+openblas" if extra else PEER
    return ServerProcess(name, command, port, model_name="default_model", environment=extra)


def _peer_python() -> Path:
    """The interpreter of mlx-lm's environment in the user's cache folder, made on first use."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "mxserve" / f"{PEER}-{PEER_VERSION}"
    python = folder / "bin" / "python"
    marker = folder / "installed"
    if marker.exists():
        return python
    print(f"installing {PEER} {PEER_VERSION} into {folder} ...", file=sys.stderr, flush=True)
    mlx = ["mlx[cpu]"] if sys.platform == "linux" else []
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", f"{PEER}=={PEER_VERSION}", *mlx],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BenchError(f"{' '.join(step)}\n{done.stderr.strip()[-2000:]}")
    marker.touch()
    return python
