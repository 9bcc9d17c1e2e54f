"""The other servers mxserve is compared with, each in an environment of its own.

Knows which ones there are, how they are installed and started, and where they say what they took
from their caches. Nothing of what is then sent to one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.bench.client import BenchError
from server.bench.servers import ServerProcess, free_port

# Only this one of them hides the cached tokens from its usage; a request without a hit has no
# number behind "cached".
_VLLM_FETCH = re.compile(r"\[cache_fetch\].*?(?:HIT.*?cached=(\d+)|MISS)")


@dataclass(frozen=True, slots=True)
class Peer:
    """A package that serves the same checkpoints. `arguments` come before model and port."""

    name: str
    version: str
    arguments: tuple[str, ...]
    model_flag: tuple[str, ...] = ()
    model_name: str | None = None
    cached_in_log: re.Pattern[str] | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "mlx-lm",
            "0.32.2",
            ("-m", "mlx_lm", "server", "--log-level", "WARNING"),
            model_flag=("--model",),
            model_name="default_model",
        ),
        Peer(
            "vllm-mlx",
            "0.6.0",
            (
                *("-m", "vllm_mlx.cli", "serve", "--continuous-batching"),
                *("--reasoning-parser", "qwen3"),
                *("--enable-auto-tool-choice", "--tool-call-parser", "qwen3_xml"),
            ),
            cached_in_log=_VLLM_FETCH,
        ),
    )
}


def peer_server(peer: Peer, model: Path, *, openblas: bool) -> ServerProcess:
    """The peer's server on the same folder; installs it first when it is not there.

    openblas: on Linux, put OpenBLAS in front of the wheel's reference BLAS, as mxserve does.
    Raises BenchError when it cannot be installed.
    """
    port = free_port()
    command = [str(_python(peer)), *peer.arguments, *peer.model_flag, str(model)]
    command += ["--port", str(port)]
    extra = {"LD_PRELOAD": "libopenblas.so.0"} if openblas and sys.platform == "linux" else {}
    name = f"{peer.name}+openblas" if extra else peer.name
    return ServerProcess(name, command, port, model_name=peer.model_name, environment=extra)


def cached_reader(peer: Peer, server: ServerProcess) -> Callable[[], int | None] | None:
    """Reads from the server's log what its last request took from the cache; None for a peer whose
    usage says it."""
    pattern = peer.cached_in_log
    if pattern is None:
        return None

    def read() -> int | None:
        found = server.last_in_log(pattern)
        return None if found is None else int(found[1] or 0)

    return read


def _python(peer: Peer) -> Path:
    """The interpreter of its environment in the user's cache folder, made on first use."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "mxserve" / f"{peer.name}-{peer.version}"
    python = folder / "bin" / "python"
    marker = folder / "installed"
    if marker.exists():
        return python
    print(f"installing {peer.title} into {folder} ...", file=sys.stderr, flush=True)
    mlx = ["mlx[cpu]"] if sys.platform == "linux" else []
    steps: Sequence[Sequence[str]] = (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", f"{peer.name}=={peer.version}", *mlx],
    )
    for step in steps:
        done = subprocess.run(list(step), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BenchError(f"{' '.join(step)}\n{done.stderr.strip()[-2000:]}")
    marker.touch()
    return python
