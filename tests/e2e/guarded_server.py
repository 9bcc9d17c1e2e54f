"""`mxserve serve` that writes down what no request may make it do: `python -m
tests.e2e.guarded_server FILE serve ...`. The interpreter tells of it by its audit events.

Written is whatever happens once the file is there: sockets that are connected, names that are
looked up, programs that are started, pickles that are read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

WATCHED = (
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.system",
    "pickle.find_class",
    "urllib.Request",
    "ctypes.dlopen",
)


def watch(path: Path) -> None:
    """Writes events to `path`, once it is there."""
    events = path.with_suffix(".events").open("a", encoding="utf-8", buffering=1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        forbidden = event in WATCHED or (event == "open" and "passwd" in str(args[0]))
        if forbidden and path.exists():
            told = args[1:] if event.startswith("socket") else args
            events.write(f"{event} {told!r:.200}\n")

    sys.addaudithook(hook)


def main(path: str, *args: str) -> int:
    from server import cli

    watch(Path(path))
    return cli.main(args)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
