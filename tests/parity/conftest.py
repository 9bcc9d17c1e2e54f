"""The live checkpoints and references, computed once a session in a process of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per live checkpoint: plain, odd."""
    given = os.environ.get("MXSERVE_PARITY_CHECKPOINTS")  # made before, to save the minute
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("parity")
    command = [sys.executable, "-m", "tests.parity.make", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.fail(f"the references could not be computed:\n{made.stderr}")
    print(made.stdout)
    return folder
