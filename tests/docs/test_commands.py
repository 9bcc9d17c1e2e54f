"""Every command in the documentation is run, or says why not and would at least be understood."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, ServerProcess
from tests.docs.commands import FILES, Block, blocks, inline, unfenced
from tests.docs.parsing import check

ADDRESS = re.compile(r"http://(127\.0\.0\.1|localhost):8080")
ALL = [block for file in FILES for block in blocks(file)]
SHELL = [block for block in ALL if block.language == "sh"]
PYTHON = [block for block in ALL if block.language == "python"]
RUN = [block for block in SHELL if block.not_run is None]
WRONG = [
    "mxserve serve --prot 80",
    "make sreve",
    "mxserve cache sl",
    "mxserve service install --prot 80",
    "mxserve service satus",
]
NOT_RUN = [block for block in SHELL if block.not_run is not None]


def environment(home: Path) -> dict[str, str]:
    """A newcomer's, with the commands of this checkout on PATH and a home of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    kept["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), kept["PATH"]))
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}


def done(command: list[str], home: Path) -> str:
    """What it printed. Fails where it does."""
    found = subprocess.run(
        command,
        cwd=home,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert found.returncode == 0, f"{found.stdout}\n{found.stderr}"
    return found.stdout


def at(block: Block, server: ServerProcess) -> str:
    """The block's text for this server and this environment."""
    text = ADDRESS.sub(server.url, block.text)
    return text.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_it_runs(block: Block, live_server: ServerProcess, tmp_path: Path):
    if "curl" in block.text and shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    told = done(["bash", "-eo", "pipefail", "-c", at(block, live_server)], tmp_path)
    assert '"error":{' not in told.replace(" ", ""), told


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_the_program_runs(block: Block, live_server: ServerProcess, tmp_path: Path):
    assert done([sys.executable, "-c", at(block, live_server)], tmp_path).strip()


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: block.name)
def test_it_would_be_understood(block: Block, monkeypatch: pytest.MonkeyPatch):
    assert block.lines()
    for line in block.lines():
        check(line, monkeypatch)


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_seen(line: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(line, monkeypatch)


@pytest.mark.parametrize("file", FILES)
def test_commands_are_in_fences(file: str):
    assert unfenced(file) == []
    for block in blocks(file):
        assert block.language, f"{block.name}: a fence without a language"


@pytest.mark.parametrize("file", [*FILES, "docs/clients.md", "docs/benchmarks/README.md"])
def test_commands_in_the_text_would_be_understood(file: str, monkeypatch: pytest.MonkeyPatch):
    for line in inline(file):
        check(line, monkeypatch)


@pytest.mark.parametrize("file", FILES)
def test_links_lead_somewhere(file: str):
    text = Path(ROOT, file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert Path(ROOT, file).parent.joinpath(target).exists(), target


def test_the_index_names_every_page():
    index = Path(ROOT, "docs", "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in Path(ROOT, "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()


def test_the_workflow_has_commands_that_exist(monkeypatch: pytest.MonkeyPatch):
    text = Path(ROOT, ".github", "workflows", "tests.yml").read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("- run: ") for line in text.splitlines()]
    found = [line for line in lines if line.startswith((".venv/bin/mxserve ", "make "))]
    assert len(found) > 5
    for line in found:
        check(line, monkeypatch)
