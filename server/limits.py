"""What the system lets a server have besides memory: open files, room for caches on the disk."""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from server.engine.cache_folder import default_folder

_GIB = 1 << 30
DISK_CACHE = 20 * _GIB  # as much as the prompt cache takes of the disk by default
OPEN_FILES = 1100  # the connections that are allowed by default, and the files of the rest
FOLDER_VARIABLE = "MXSERVE_DISK_CACHE"


@dataclass(frozen=True, slots=True)
class Limits:
    """open_files: how many the server may ask for; cache_folder: of the prompt cache, None where it
    is off; disk_free: bytes free on its disk."""

    open_files: int
    cache_folder: str | None
    disk_free: int | None

    @staticmethod
    def now() -> Limits:
        """Those of this process, with the folder that a server started like it would use."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = (1 << 31) - 1 if hard == resource.RLIM_INFINITY else hard
        named = os.environ.get(FOLDER_VARIABLE)
        if named in ("", "off"):
            return Limits(most, None, None)
        folder = default_folder() if named is None else Path(named).expanduser().absolute()
        return Limits(most, str(folder), _free(folder))

    def text(self) -> str:
        """In words."""
        files = f"{self.open_files:,} open files"
        if self.cache_folder is None:
            return f"{files}; no prompt cache on the disk"
        free = "?" if self.disk_free is None else f"{self.disk_free / _GIB:.1f} GiB"
        return f"{files}; {free} free for the prompt cache in {self.cache_folder}"

    def advice(self) -> list[str]:
        """What to do about them; empty when there is nothing."""
        steps = []
        if self.open_files < OPEN_FILES:
            steps.append(
                f"This process may open {self.open_files} files at most; a server with the default "
                f"of 1,000 connections wants {OPEN_FILES:,}: raise the hard limit (ulimit -Hn), or "
                "lower --max-connections."
            )
        if self.disk_free is not None and self.disk_free < DISK_CACHE:
            steps.append(
                f"The prompt cache may take {DISK_CACHE / _GIB:.0f} GiB of the disk and "
                f"{self.disk_free / _GIB:.1f} are free: lower --disk-cache-bytes, or give another "
                "folder with --disk-cache."
            )
        return steps


def _free(folder: Path) -> int | None:
    """Of the disk where `folder` is, or would be made."""
    for place in (folder, *folder.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None
