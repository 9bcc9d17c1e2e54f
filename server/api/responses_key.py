"""The server's own key for encrypted reasoning: a file beside the responses that are kept.

Knows the file, and that several processes may want it at once; not what the key is used for.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from server.engine.cache_folder import make_private

KEY_FILE = "reasoning.key"


def kept_key(folder: Path | None, length: int) -> bytes:
    """The key that lies in `folder`, made there where there is none; without a folder a new one.
    Raises OSError."""
    new = secrets.token_bytes(length)
    if folder is None:
        return new
    make_private(folder)
    path = folder / KEY_FILE
    partial = folder / f"{KEY_FILE}.{os.getpid()}"
    if not path.exists():
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(new)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(partial, path)  # of two processes that make one, the first has made it
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != length:
        raise OSError(f"{path} is damaged: remove it, and a new key is made")
    return key
