"""`mxserve serve` with faults on demand: `python -m tests.e2e.faulty_server FOLDER serve ...`.

A fault is a file in FOLDER, named after it. It is looked at in the real model's prefill and in its
decode step, so that everything around these two calls is what users run.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

OUT_OF_MEMORY = "[malloc] Unable to allocate 68719476736 bytes."


class Killed(BaseException):
    """What no handler of exceptions catches."""


class Faults:
    """Counted faults go off as often as their file's number says; `hold`, `slow` and `slow-disk`
    (seconds), `full-disk`, and `clock` (seconds by which the time of day is off), last as long as
    their file is there. Every call is written to the file `calls`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def strike(self, where: str, tokens: int) -> None:
        """Called at the beginning of a `where` ("prefill" or "step")."""
        with (self._folder / "calls").open("a") as calls:
            calls.write(f"{where} {tokens}\n")
        while (self._folder / "hold").exists():
            time.sleep(0.005)
        self.delay("slow")
        if self.take(f"{where}-error"):
            raise RuntimeError("injected: secret detail")
        if self.take(f"{where}-memory"):
            raise RuntimeError(OUT_OF_MEMORY)
        if self.take(f"{where}-kill"):
            raise Killed("injected")
        if self.take(f"{where}-hang"):
            time.sleep(600)

    def seconds(self, name: str) -> float:
        """What lasting fault `name` says, 0 where it is not there."""
        try:
            return float((self._folder / name).read_text())
        except FileNotFoundError:
            return 0.0

    def delay(self, name: str) -> None:
        """Sleeps for as long as fault `name` says, if it is there."""
        time.sleep(self.seconds(name))

    def on(self, name: str) -> bool:
        """Whether lasting fault `name` is on."""
        return (self._folder / name).exists()

    def take(self, name: str) -> bool:
        """Whether fault `name` goes off now."""
        path = self._folder / name
        if not path.exists():
            return False
        left = int(path.read_text()) - 1
        if left > 0:
            path.write_text(str(left))
        else:
            path.unlink()
        return True


def install(faults: Faults) -> None:
    """Puts `faults` into the model's calls, the writing of files, and the time of day."""
    _into_the_model(faults)
    _into_the_disk(faults)
    now = time.time
    time.time = lambda: now() + faults.seconds("clock")


def _into_the_model(faults: Faults) -> None:
    from model.decoder import Decoder, Told
    from model.generation import Generation

    prefill, restore, step = Generation.prefill, Generation.restore, Decoder.step

    def faulty_prefill(self: Generation, tokens: Sequence[int]) -> None:
        faults.strike("prefill", len(tokens))
        prefill(self, tokens)

    def faulty_restore(
        self: Generation, spans: Sequence[Any], recurrent: Any, tokens: Sequence[int]
    ) -> None:
        if faults.take("restore-memory"):
            raise RuntimeError(OUT_OF_MEMORY)
        restore(self, spans, recurrent, tokens)

    def faulty_step(self: Decoder) -> Told:
        faults.strike("step", len(self.members))
        told = step(self)
        if not faults.on("nan"):
            return told
        results = list(told)
        if results and faults.take("nan"):
            results[0] = (results[0][0], -1)
        return Told(results, [])

    Generation.prefill, Generation.restore = faulty_prefill, faulty_restore
    Decoder.step = faulty_step


def _into_the_disk(faults: Faults) -> None:
    write, fsync = os.write, os.fsync

    def slow_fsync(file: int) -> None:
        faults.delay("slow-disk")
        fsync(file)

    def full_write(file: int, data: Any) -> int:
        if threading.current_thread().name == "mxserve-cache-writer" and faults.on("full-disk"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data)

    os.write, os.fsync = full_write, slow_fsync


def shrink_buffers() -> None:
    """What a reader does not read fills up after a few frames instead of megabytes."""
    from server import serve

    bound = serve._bound

    def small(*where: Any) -> socket.socket:
        sock = bound(*where)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return sock

    serve._bound = small


def main(folder: str, *args: str) -> int:
    from server import cli

    install(Faults(Path(folder)))
    shrink_buffers()
    return cli.main(args)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
