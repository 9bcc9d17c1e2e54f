"""The wheel: built without a network, with everything that runs and nothing that does not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import ROOT

LARGEST = 16 << 20


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZipFile]:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    assert path.stat().st_size < LARGEST
    with ZipFile(path) as archive:
        yield archive


def test_every_file_of_the_packages_is_in_it(wheel: ZipFile):
    listed = subprocess.run(
        ["git", "ls-files", "model", "server"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    here = {name for name in listed.stdout.splitlines() if Path(ROOT, name).is_file()}
    assert here <= set(wheel.namelist())


def test_the_demo_and_the_page_are_in_it(wheel: ZipFile):
    names = set(wheel.namelist())
    demo = {f"model/demo/checkpoint/{name}" for name in ("config.json", "model.safetensors")}
    assert demo <= names
    page = {path.name for path in Path(ROOT, "server", "static").iterdir() if path.is_file()}
    assert {"index.html"} <= page
    assert {f"server/static/{name}" for name in page} <= names


def test_nothing_else_is_in_it(wheel: ZipFile):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    (information,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {"model", "server", information}
    assert not [name for name in wheel.namelist() if "__pycache__" in name]
    commands = wheel.read(f"{information}/entry_points.txt").decode()
    assert re.search(r"^mxserve = server\.cli:main$", commands, re.MULTILINE)
    assert f"{information}/licenses/LICENSE" in wheel.namelist()
    metadata = Parser().parsestr(wheel.read(f"{information}/METADATA").decode())
    assert metadata["Requires-Python"] == ">=3.11"


def test_it_runs_from_its_own_files(wheel: ZipFile, tmp_path: Path):
    """As installed: without the checkout. Its dependencies are those of this environment."""
    wheel.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import server, model\n"
        "assert server.__file__.startswith(sys.argv[1]), server.__file__\n"
        "from server.cli import main\n"
        "sys.exit(main(['doctor', '--kernels', 'off']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mxserve-demo" in done.stdout
