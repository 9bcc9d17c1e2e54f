"""The other servers mxserve is compared with, each in an environment of its own.

Knows which ones there are, how they are installed and started, and where they say what they took
from their caches. Nothing of what is then sent to one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from server.bench.client import BenchError
from server.bench.servers import DEMO, OURS, ServerProcess, free_port, own_server

CPU_INDEX = "https://download.pytorch.org/whl/cpu"


@dataclass(frozen=True, slots=True)
class Peer:
    """A package that serves the same checkpoints. `arguments` come before model and port.

    torch: what it needs of PyTorch; on Linux installed first, in the builds for CPUs. text_only: it
    would serve a checkpoint that names tokens for images through its code for images, so it gets
    one that does not. counts_saved: its usage hides its cache, but GET /v1/status sums up what the
    cache saved.
    """

    name: str
    version: str
    arguments: tuple[str, ...]
    torch: tuple[str, ...] = ()
    text_only: bool = False
    model_flag: tuple[str, ...] = ()
    model_name: str | None = None
    counts_saved: bool = False

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
            torch=("torch==2.13.0", "torchvision==0.28.0"),
            text_only=True,
            counts_saved=True,
        ),
    )
}


def peer_server(peer: Peer, model: Path, *, home: Path, openblas: bool) -> ServerProcess:
    """The peer's server on the same folder; installs it first when it is not there.

    home: its home folder: what it keeps on disk must not come from the last measurement.
    openblas: on Linux, put OpenBLAS in front of the wheel's reference BLAS, as mxserve does.
    Raises BenchError when it cannot be installed.
    """
    port = free_port()
    if peer.text_only:
        model = text_view(model, home / "checkpoint")
    command = [str(interpreter(peer)), *peer.arguments, *peer.model_flag, str(model)]
    command += ["--port", str(port)]
    preload = openblas and sys.platform == "linux"
    return ServerProcess(
        f"{peer.name}+openblas" if preload else peer.name,
        command,
        port,
        model_name=peer.model_name,
        environment={
            "HOME": str(home),
            **({"LD_PRELOAD": "libopenblas.so.0"} if preload else {}),
        },
    )


def contender(
    name: str,
    folder: Path | None,
    *,
    scratch: Path,
    flags: Sequence[str] = (),
    openblas: bool = False,
) -> ServerProcess:
    """mxserve's own server, or a peer's, not started yet, on a checkpoint's folder (None: the
    demo's). What it keeps on disk goes to `scratch`. flags: for mxserve; openblas: for a peer.
    """
    if name == OURS:
        return own_server(folder, flags=flags, disk_cache=scratch)
    return peer_server(PEERS[name], folder or DEMO, home=scratch, openblas=openblas)


def text_view(checkpoint: Path, folder: Path) -> Path:
    """Makes `folder` the same checkpoint, by links, but with a config that says nothing of images;
    returns it."""
    folder.mkdir()
    for file in checkpoint.resolve().iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    text = {
        key: value
        for key, value in config.items()
        if key != "architectures" and not key.startswith(("image_", "video_", "vision_"))
    }
    (folder / "config.json").write_text(json.dumps(text), encoding="utf-8")
    return folder


def cached_reader(peer: Peer, server: ServerProcess) -> Callable[[], int | None] | None:
    """Says, asked after every request, what the cache saved since it was asked last; None for a
    peer whose usage says it."""
    if not peer.counts_saved:
        return None
    before = 0

    def read() -> int | None:
        nonlocal before
        try:
            status = httpx.get(f"{server.url}/v1/status", timeout=30.0).raise_for_status().json()
            saved = int(status["cache"]["tokens_saved"])
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return None
        since = saved - before if saved >= before else saved  # it was restarted
        before = saved
        return since

    return read


def interpreter(peer: Peer) -> Path:
    """The Python of its environment in the user's cache folder, made on first use. Raises
    BenchError when it cannot be installed."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "mxserve" / f"{peer.name}-{peer.version}"
    python = folder / "bin" / "python"
    marker = folder / "installed"
    if marker.exists():
        return python
    print(f"installing {peer.title} into {folder} ...", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for step in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        *([str(python), "-m", "pip", "install", "-q", *these] for these in _installs(peer)),
    ):
        done = subprocess.run(step, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BenchError(f"{' '.join(step)}\n{done.stderr.strip()[-2000:]}")
    marker.touch()
    return python


def _installs(peer: Peer) -> list[list[str]]:
    """What pip is asked for, one call after the other. Once torch is there, naming it again keeps
    it from being replaced by a build that brings gigabytes of CUDA along."""
    wanted = f"{peer.name}=={peer.version}"
    if sys.platform != "linux":
        return [[wanted]]
    index = ["--extra-index-url", CPU_INDEX] if peer.torch and _answers(CPU_INDEX) else []
    first = [[*peer.torch, *index]] if peer.torch else []
    return [*first, [wanted, "mlx[cpu]", *peer.torch, *index]]


def _answers(index: str) -> bool:
    """Whether an index can be reached at all; pip would retry for minutes where it can't."""
    try:
        return httpx.head(f"{index}/torch/", timeout=5.0).is_success
    except httpx.HTTPError:
        return False
