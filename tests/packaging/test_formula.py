"""The Homebrew formula, as far as it can be read without brew."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from server.service.launchd import THROTTLE_S
from tests.conftest import ROOT

FORMULA = ROOT / "deploy" / "homebrew" / "mxserve.rb"


@pytest.mark.skipif(shutil.which("ruby") is None, reason="there is no ruby here")
def test_ruby_reads_it():
    done = subprocess.run(["ruby", "-c", str(FORMULA)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Syntax OK" in done.stdout


def test_its_service_is_that_of_the_command():
    text = FORMULA.read_text(encoding="utf-8")
    assert "keep_alive successful_exit: false" in text
    assert f"throttle_interval {THROTTLE_S}" in text
    assert '"serve", "--log-file"' in text
