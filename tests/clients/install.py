"""Installs a client in a prefix of its own below one folder, from PyPI or the npm registry.

A prefix is made once for each set of pinned packages and used again; the package managers' caches
are the user's own. Install scripts of npm packages run, since several agents unpack their program
in one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .catalogue import Client

UV = "uv==0.13.9"
NODE = "node@22.23.3"
NODE_WANTED = 22
SECONDS = 900


@dataclass(frozen=True, slots=True)
class Installed:
    """A prefix that is ready: its interpreter for exercises, and the folder of its commands."""

    prefix: Path
    interpreter: Path
    commands: Path
    seconds: float  # 0 where it was there already
    size: int  # bytes on disk


class InstallFailed(Exception):
    """The package manager said no; the text is the end of what it said."""


def install(client: Client, root: Path) -> Installed:
    """The client's prefix below `root`, made where it is not there."""
    pins = hashlib.sha256("\n".join(client.packages).encode()).hexdigest()[:8]
    prefix = root / f"{client.name}-{pins}"
    make = _python if client.runtime == "python" else _node
    interpreter, commands = make(client, prefix, root)
    stamp = prefix / ".installed"
    seconds = 0.0
    if not stamp.exists():
        started = time.monotonic()
        shutil.rmtree(prefix, ignore_errors=True)
        prefix.mkdir(parents=True)
        for command in _commands(client, prefix, root):
            _call(command, root)
        seconds = time.monotonic() - started
        stamp.touch()
    return Installed(prefix, interpreter, commands, round(seconds, 1), _size(prefix))


def node_folder(root: Path) -> Path:
    """The folder of a `node` that is new enough: the machine's own, or one of the registry's."""
    found = shutil.which("node")
    if found:
        told = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30)
        if int(told.stdout.strip().lstrip("v").split(".")[0]) >= NODE_WANTED:
            return Path(found).parent
    prefix = root / "node"
    folder = prefix / "node_modules/node/bin"
    if not (folder / "node").exists():
        prefix.mkdir(parents=True, exist_ok=True)
        _npm(["install", "--no-save", "--prefix", str(prefix), NODE], os.environ["PATH"])
    return folder


def _python(client: Client, prefix: Path, root: Path) -> tuple[Path, Path]:
    return prefix / "bin/python", prefix / "bin"


def _node(client: Client, prefix: Path, root: Path) -> tuple[Path, Path]:
    return node_folder(root) / "node", prefix / "node_modules/.bin"


def _commands(client: Client, prefix: Path, root: Path) -> list[list[str]]:
    if client.runtime == "node":
        return [["npm", "install", "--no-save", "--prefix", str(prefix), *client.packages]]
    uv = root / "uv/bin/uv"
    made = []
    if not uv.exists():
        made += [
            [sys.executable, "-m", "venv", str(root / "uv")],
            [str(root / "uv/bin/python"), "-m", "pip", "install", "-q", UV],
        ]
    return [
        *made,
        [str(uv), "venv", "-q", "--allow-existing", "-p", sys.executable, str(prefix)],
        [str(uv), "pip", "install", "-q", "--python", str(prefix / "bin/python"), *client.packages],
    ]


def _call(command: list[str], root: Path) -> None:
    if command[0] == "npm":
        _npm(command[1:], f"{node_folder(root)}{os.pathsep}{os.environ['PATH']}")
    else:
        _checked(command, dict(os.environ))


def _npm(arguments: list[str], path: str) -> None:
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel", "error"]
    _checked(["npm", *arguments, *quiet], {**os.environ, "PATH": path})


def _checked(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise InstallFailed(f"{command[0]} did not end within {SECONDS} s") from late
    except FileNotFoundError as missing:
        raise InstallFailed(f"{command[0]} is not on this machine") from missing
    if done.returncode:
        raise InstallFailed((done.stderr or done.stdout)[-800:])


def _size(prefix: Path) -> int:
    """Bytes of the files; hard links to the package manager's cache count in full."""
    files = (path for path in prefix.rglob("*") if not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.is_file())
