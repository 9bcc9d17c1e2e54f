"""A user agent of launchd: its property list, and launchctl's verbs for it.

Knows launchctl of macOS 10.11 and newer (bootstrap, bootout, kickstart, print).
"""

from __future__ import annotations

import os
import plistlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from server.service.definition import NAME, Definition, Installed
from server.service.state import ServiceError, State, checked
from server.service.tail import tail

THROTTLE_S = 15  # the memory of the process that failed has to be back
POLL_S = 0.2

Run = Callable[[Sequence[str]], CompletedProcess[str]]


def plist(service: Definition) -> bytes:
    """The property list: started at login, and again after a failure but not after a stop."""
    content: dict[str, Any] = {
        "Label": NAME,
        "ProgramArguments": list(service.command),
        "WorkingDirectory": service.folder,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": THROTTLE_S,
        # Longer than the drain, so that requests in flight can finish.
        "ExitTimeOut": service.stop_s,
        # Neither throttled nor napped: somebody waits for its answers.
        "ProcessType": "Interactive",
    }
    if service.environment:
        content["EnvironmentVariables"] = dict(service.environment)
    if service.log_file is not None:
        # What comes before the server has opened its log itself.
        content["StandardOutPath"] = content["StandardErrorPath"] = service.log_file
    return plistlib.dumps(content, sort_keys=False)


class Launchd:
    """The service of the user who is logged in. run: as subprocess.run, with its output kept."""

    def __init__(self, home: Path, run: Run) -> None:
        self._run = run
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{NAME}"
        self.file = home / "Library" / "LaunchAgents" / f"{NAME}.plist"
        self.log_file = home / "Library" / "Logs" / f"{NAME}.log"

    def text(self, service: Definition) -> bytes:
        return plist(service)

    def install(self, service: Definition, *, start: bool) -> None:
        """Writes the property list and starts the service; one that runs is replaced."""
        self._boot_out()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if service.log_file is not None:
            Path(service.log_file).parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(plist(service))
        self.file.chmod(0o600)  # paths and settings are nobody else's affair
        if start:
            self._bootstrap()

    def uninstall(self) -> None:
        self._boot_out()
        self.file.unlink(missing_ok=True)

    def start(self) -> None:
        if self._loaded():
            checked(self._run(["launchctl", "kickstart", self._target]))
        else:
            self._bootstrap()

    def stop(self) -> None:
        """Ends it until the next login or start. One that fails again and again would be started
        again by launchd if it only got a signal."""
        self._boot_out()

    def state(self) -> State:
        found = self._run(["launchctl", "print", self._target])
        if found.returncode != 0:
            return State(loaded=False)
        pid = re.search(r"^\s*pid = (\d+)$", found.stdout, re.MULTILINE)
        code = re.search(r"^\s*last exit code = (-?\d+)", found.stdout, re.MULTILINE)
        signal = re.search(r"^\s*last terminating signal = .*?(\d+)$", found.stdout, re.MULTILINE)
        return State(
            loaded=True,
            pid=int(pid[1]) if pid else None,
            last_exit=int(code[1]) if code else None,
            last_signal=int(signal[1]) if signal else None,
        )

    def installed(self) -> Installed:
        """Raises ServiceError where there is none, or it cannot be read."""
        try:
            content = plistlib.loads(self.file.read_bytes())
            return Installed(
                tuple(content["ProgramArguments"]), content.get("EnvironmentVariables", {})
            )
        except FileNotFoundError:
            raise ServiceError(f"not installed: there is no {self.file}") from None
        except (OSError, KeyError, ValueError, plistlib.InvalidFileException) as error:
            raise ServiceError(f"{self.file} cannot be read: {error!r}") from None

    def logs(self, lines: int, *, follow: bool) -> list[str]:
        """The command that shows the log."""
        log_file = self.installed().settings().log_file or self.log_file
        return tail(log_file, lines, follow=follow)

    def _loaded(self) -> bool:
        return self._run(["launchctl", "print", self._target]).returncode == 0

    def _bootstrap(self) -> None:
        if not self.file.exists():
            raise ServiceError(f"not installed: there is no {self.file}")
        self._run(["launchctl", "enable", self._target])
        checked(self._run(["launchctl", "bootstrap", self._domain, str(self.file)]))

    def _boot_out(self) -> None:
        """Stops and forgets it. launchctl may return before the process has drained, and refuses
        a second bootstrap until then."""
        if not self._loaded():
            return
        patience = self._patience()
        self._run(["launchctl", "bootout", self._target])
        if not _comes_true(lambda: not self._loaded(), patience):
            raise ServiceError("launchctl bootout: the service is still there")

    def _patience(self) -> float:
        try:
            return plistlib.loads(self.file.read_bytes())["ExitTimeOut"] + 5.0
        except (OSError, KeyError, ValueError, plistlib.InvalidFileException):
            return 60.0


def _comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
