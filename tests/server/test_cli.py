"""The command line as a part of a shell's pipes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.mark.parametrize("arguments", [["cache", "ls", "--folder"], ["service", "status"]])
def test_a_reader_that_leaves_is_no_traceback(arguments: list[str], tmp_path: Path):
    if arguments[-1] == "--folder":
        arguments = [*arguments, str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "server", *arguments],
        cwd=ROOT,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()  # before it has anything to say
    process.stdout = None
    _, told = process.communicate()
    assert (process.returncode, told) == (141, "")
