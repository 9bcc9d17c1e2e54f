"""What the system says of a process: its memory, its open files, its threads.

Knows /proc on Linux, and ps and lsof elsewhere; nothing of what the process is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """rss: resident bytes. None for what cannot be had."""

    rss: int | None = None
    files: int | None = None
    threads: int | None = None


def process_figures(pid: int) -> ProcessFigures:
    """Of process `pid` now; all None when it is gone."""
    try:
        return _of_proc(pid) if sys.platform == "linux" else _of_commands(pid)
    except (OSError, ValueError, IndexError):
        return ProcessFigures()


def _of_proc(pid: int) -> ProcessFigures:
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return ProcessFigures(
        rss=int(lines["VmRSS"].split()[0]) * 1024 if "VmRSS" in lines else None,
        files=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(lines["Threads"]),
    )


def _of_commands(pid: int) -> ProcessFigures:
    rss = _said("ps", "-o", "rss=", "-p", str(pid)).strip()
    if not rss:
        return ProcessFigures()
    threads = len(_said("ps", "-M", "-p", str(pid)).splitlines()) - 1
    files = len(_said("lsof", "-n", "-P", "-p", str(pid)).splitlines()) - 1
    return ProcessFigures(int(rss) * 1024, max(files, 0) or None, max(threads, 0) or None)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout
