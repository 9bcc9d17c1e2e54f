"""Fakes of launchctl and systemctl on PATH, which keep a state and record their calls."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

# A service that is booted out drains first: it is still there when asked the first time.
LAUNCHCTL = r"""#!/bin/sh
cd "$FAKE_STATE" || exit 99
echo "launchctl $*" >> calls
case $1 in
  print)
    if [ -e leaving ]; then rm leaving loaded
    elif [ ! -e loaded ]; then echo "Could not find service" >&2; exit 113; fi
    printf '%s = {\n\tactive count = 1\n' "$2"
    if [ -e pid ]; then printf '\tstate = running\n\tpid = %s\n' "$(cat pid)"; fi
    printf '\tlast exit code = 0\n}\n' ;;
  bootstrap)
    [ ! -e loaded ] || { echo "Bootstrap failed: 5: Input/output error" >&2; exit 5; }
    cp "$3" loaded; echo 4242 > pid ;;
  bootout) rm -f pid; touch leaving ;;
  kickstart) [ -e loaded ] || exit 113; echo 4243 > pid ;;
  enable) ;;
  *) exit 64 ;;
esac
"""

SYSTEMCTL = r"""#!/bin/sh
cd "$FAKE_STATE" || exit 99
echo "systemctl $*" >> calls
shift
case $1 in
  show)
    if [ -e loaded ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
    if [ -e pid ]; then echo "MainPID=$(cat pid)"; else echo MainPID=0; fi
    if [ -e ended ]; then cat ended; else echo ExecMainCode=1; echo ExecMainStatus=70; fi ;;
  daemon-reload) touch loaded ;;
  start|restart) [ ! -e broken ] || { echo "Job failed." >&2; exit 1; }; echo 4242 > pid ;;
  stop) rm -f pid ;;
  disable) rm -f pid loaded ;;
  enable) ;;
  *) exit 64 ;;
esac
"""

SHOWN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$FAKE_STATE/calls"
"""


@dataclass
class Machine:
    """A home folder and the supervisor's state beside it."""

    home: Path
    state: Path

    def calls(self) -> list[str]:
        """What was called since the last time, in order."""
        path = self.state / "calls"
        found = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    def changes(self) -> list[str]:
        """Those of the calls that do more than ask."""
        return [call for call in self.calls() if call.split()[1] != "print"]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    folders = [tmp_path / name for name in ("home", "state", "bin")]
    for folder in folders:
        folder.mkdir()
    home, state, programs = folders
    scripts = {"launchctl": LAUNCHCTL, "systemctl": SYSTEMCTL, "tail": SHOWN, "journalctl": SHOWN}
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for name in [name for name in os.environ if name.startswith(("MXSERVE_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FAKE_STATE", str(state))
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return Machine(home, state)
