"""The folder of the prompt cache on disk: which one, what lies in it, and that it is private.

One subfolder for each format and checkpoint. Lists names and sizes; never opens a file.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from server.engine.cache_file import FORMAT, Kind, named_like_ours, temporary_of

_PREFIX = "prompts-"
_LABEL = "model.txt"
_TURNS = "turns.jsonl"


def default_folder() -> Path:
    """Where this user's caches are: ~/Library/Caches/mxserve on macOS, else $XDG_CACHE_HOME/mxserve
    or ~/.cache/mxserve."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mxserve"
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The standard says that a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mxserve"


def subfolder(folder: Path, fingerprint: str) -> Path:
    """Where the files of one checkpoint lie, in the present format."""
    name = hashlib.sha256(f"{FORMAT}\0{fingerprint}".encode()).hexdigest()[:32]
    return folder / f"{_PREFIX}{name}"


def make_private(folder: Path) -> None:
    """Creates `folder` and what is missing above it; its owner alone may enter. OSError, also when
    it belongs to somebody else."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    if status.st_mode & 0o077:
        folder.chmod(0o700)


@dataclass(frozen=True, slots=True)
class Listed:
    """A file by the name of ours. `used`: its time of change, which a use renews."""

    path: Path
    kind: Kind
    address: bytes
    nbytes: int
    used: float


def listed(folder: Path) -> Iterator[Listed]:
    """The files in one subfolder that are named like ours; none where there is no such folder."""
    try:
        scan = os.scandir(folder)
    except OSError:
        return
    with scan:
        for item in scan:
            named = named_like_ours(item.name)
            if named is None:
                continue
            try:
                if item.is_file(follow_symlinks=False):
                    status = item.stat(follow_symlinks=False)
                    yield Listed(Path(item.path), *named, status.st_size, status.st_mtime)
            except OSError:
                continue  # gone meanwhile


def subfolders(folder: Path) -> list[Path]:
    """All subfolders of ours in `folder`, of whatever format and checkpoint."""
    try:
        found = [item for item in folder.iterdir() if item.name.startswith(_PREFIX)]
        return sorted(item for item in found if item.is_dir() and not item.is_symlink())
    except OSError:
        return []


def abandoned(folder: Path) -> list[Path]:
    """Files in a subfolder that a process which is gone had begun to write."""
    return [path for path, process in _temporaries(folder) if not _runs(process)]


def label(folder: Path) -> str:
    """What the subfolder's owner wrote about the model; empty when nothing."""
    try:
        return (folder / _LABEL).read_text(encoding="utf-8", errors="replace").strip()[:200]
    except OSError:
        return ""


def write_label(folder: Path, text: str) -> None:
    """Says in the subfolder which model it is for. OSError."""
    if text and label(folder) != text:
        (folder / _LABEL).write_text(f"{text}\n", encoding="utf-8")


def remove_files(folder: Path) -> int:
    """Removes our files from a subfolder, those being written too, and the subfolder itself when
    nothing else is in it; returns how many entries it held. OSError when one cannot be removed."""
    held = list(listed(folder))
    paths = [item.path for item in held] + [path for path, _ in _temporaries(folder)]
    for path in [*paths, folder / _LABEL, folder / _TURNS]:
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return len(held)


def temporaries(folder: Path, process: int) -> list[Path]:
    """Files in a subfolder that `process` had begun to write."""
    return [path for path, writer in _temporaries(folder) if writer == process]


def _temporaries(folder: Path) -> list[tuple[Path, int]]:
    try:
        named = [(folder / name, temporary_of(name)) for name in os.listdir(folder)]
    except OSError:
        return []
    return [(path, process) for path, process in named if process is not None]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # somebody else's
    return True
