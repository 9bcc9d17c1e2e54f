"""The folder where this user's state is kept: what is lost for good when it is removed, unlike a
cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state_folder() -> Path:
    """~/Library/Application Support/mxserve on macOS, else $XDG_STATE_HOME/mxserve or
    ~/.local/state/mxserve."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mxserve"
    base = os.environ.get("XDG_STATE_HOME", "")
    # The standard says that a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "mxserve"
