"""Runs a command with a clean environment and ends everything it left behind.

Knows nothing of clients. Children are found again by a mark in their environment, so a daemon that
left its process group ends too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "MXSERVE_CLIENTS_MARK"
# What a command needs of ours. Keys, tokens and addresses of other servers are not among it.
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
)


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended; `status` is None where it ran out of time."""

    status: int | None
    stdout: str
    stderr: str
    seconds: float


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """Only what commands need, with every folder of the user's below `home` (made here)."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    (home / "tmp").mkdir(exist_ok=True)
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "NO_COLOR": "1",
        "DO_NOT_TRACK": "1",
        "CI": "1",
        **more,
    }


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    logs: Path,
    seconds: float,
) -> Done:
    """Runs to the end or for `seconds`; stdout and stderr go through files under `logs`, so that a
    daemon which keeps them open holds nobody up."""
    mark = uuid.uuid4().hex
    started = time.monotonic()
    out, err = logs.with_suffix(".out"), logs.with_suffix(".err")
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(mark)
            process.wait()
    took = time.monotonic() - started
    return Done(status, _read(out), _read(err), took)


def end(mark: str) -> None:
    """Kills every process of ours that carries the mark, whatever group it is in."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                process.send_signal(signal.SIGKILL)


def _read(path: Path) -> str:
    return path.read_text("utf-8", "replace")
