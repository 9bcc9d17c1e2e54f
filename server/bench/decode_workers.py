"""Processes that measure one engine each, from inside: mxserve's and mlx-lm's.

A worker takes commands as JSON lines and answers each with one (model/measure/protocol.py). Knows
how they are started and asked; nothing of what the answers mean.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from server.bench import peers
from server.bench.client import BenchError
from server.bench.command import say
from server.bench.servers import DEMO, OURS

MODEL_PACKAGE = Path(__file__).resolve().parents[2] / "model"
END_LIMIT_S = 20.0


@dataclass(slots=True)
class Worker:
    """One process; the context manager starts it, waits until its model is loaded, and ends it.

    about: what it said of itself then: device, versions.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    _process: subprocess.Popen[str] | None = None
    _log: IO[bytes] | None = None

    def __enter__(self) -> Worker:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MXSERVE_")}
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            list(self.command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**kept, **self.environment},
        )
        try:
            self.about = self._answer()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Its answer. Raises BenchError when it says an error or ends."""
        assert self._process is not None  # noqa: S101 - set in __enter__
        assert self._process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):  # it has ended; reading the answer says why
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise BenchError(f"{self.name}: {do}: {answer['error']}")
        return answer

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None  # noqa: S101 - set in __enter__
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise BenchError(f"{self.name} ended with status {status}:\n{self._log_tail()}")
        return json.loads(line)

    def _log_tail(self) -> str:
        assert self._log is not None  # noqa: S101 - set in __enter__
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-15:])

    def _end(self) -> None:
        assert self._process is not None  # noqa: S101 - set in __enter__
        assert self._log is not None  # noqa: S101
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def own_worker(folder: Path | None) -> Worker:
    """mxserve's engine on a checkpoint, or the demo."""
    command = [sys.executable, "-m", "model.measure.ours"]
    path = {"PYTHONPATH": str(MODEL_PACKAGE.parent)}
    return Worker(OURS, command if folder is None else [*command, str(folder)], path)


def peer_worker(folder: Path | None, *, openblas: bool) -> Worker:
    """mlx-lm's, in the environment that it is installed in. openblas: on Linux, in front of the
    reference BLAS that its wheel has."""
    peer = peers.PEERS["mlx-lm"]
    script = MODEL_PACKAGE / "measure" / "mlx_lm_worker.py"
    preload = openblas and sys.platform == "linux"
    return Worker(
        f"{peer.name}+openblas" if preload else peer.name,
        [str(peers.interpreter(peer)), str(script), str(folder or DEMO)],
        {"LD_PRELOAD": "libopenblas.so.0"} if preload else {},
    )


@contextmanager
def contenders(folder: Path | None, vs: str | None, *, openblas: bool) -> Iterator[list[Worker]]:
    """mxserve's worker and, with `vs`, the peer's, both loaded."""
    workers = [own_worker(folder)]
    if vs:
        workers.append(peer_worker(folder, openblas=openblas))
    with ExitStack() as open_:
        for worker in workers:
            say(f"loading {worker.name}")
            open_.enter_context(worker)
        yield workers


def turns(workers: Sequence[Worker], round_: int) -> list[Worker]:
    """Each worker once; every other round in the opposite order."""
    return list(workers[::-1] if round_ % 2 else workers)
