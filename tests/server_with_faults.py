"""The real server in a process of its own, with switches for faults: files that
tests/e2e/faulty_server.py looks for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.conftest import ServerProcess, start_server


@dataclass
class ServerWithFaults:
    """Its faults are files in `folder`."""

    server: ServerProcess
    folder: Path

    @classmethod
    def start(cls, folder: Path, *flags: str) -> Self:
        """Starts `mxserve serve` with `flags`; whoever starts it stops it."""
        server = start_server(*flags, program=("tests.e2e.faulty_server", str(folder)))
        if not server.url:
            server.stop()
            raise AssertionError(server.output)
        return cls(server, folder)

    def arm(self, fault: str, value: float = 1) -> None:
        """A fault that goes off `value` times; `slow` lasts until disarmed, `value` is seconds."""
        new = self.folder / f".{fault}"
        new.write_text(str(value))
        os.replace(new, self.folder / fault)

    def disarm(self, fault: str) -> None:
        (self.folder / fault).unlink(missing_ok=True)
