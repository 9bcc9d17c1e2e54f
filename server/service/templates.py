"""The files in deploy/, made by the same code as those of `mxserve service install`.

`python -m server.service.templates FOLDER` writes them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from server.service.definition import AFTER_DRAIN_S, Definition
from server.service.launchd import plist
from server.service.systemd import unit

_DRAIN_S = 30
_MAC = Definition(
    program=("CHECKOUT/.venv/bin/mxserve",),
    arguments=("serve", "--model", "MODEL", "--log-file", "HOME/Library/Logs/mxserve.log"),
    folder="HOME",
    stop_s=_DRAIN_S + AFTER_DRAIN_S,
    log_file="HOME/Library/Logs/mxserve.log",
)
_LINUX = Definition(
    program=("CHECKOUT/.venv/bin/mxserve",),
    arguments=("serve",),
    folder="HOME",
    stop_s=_DRAIN_S + AFTER_DRAIN_S,
)


def files() -> dict[str, bytes]:
    """Name and content of each template; CHECKOUT, MODEL and HOME stand for folders."""
    return {"mxserve.plist": plist(_MAC), "mxserve.service": unit(_LINUX).encode()}


if __name__ == "__main__":
    for name, content in files().items():
        Path(sys.argv[1], name).write_bytes(content)
