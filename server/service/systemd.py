"""A user unit of systemd: its text, and systemctl's verbs for it. The log is the journal's, unless
the server writes it to a file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from server.service.definition import NAME, Definition, Installed
from server.service.state import ServiceError, State, checked
from server.service.tail import tail

UNIT = f"{NAME}.service"
EXIT_CONFIG = 78

Run = Callable[[Sequence[str]], CompletedProcess[str]]

_SHOWN = ("LoadState", "SubState", "MainPID", "ExecMainCode", "ExecMainStatus")
_EXITED, _BY_SIGNAL = "1", ("2", "3")  # CLD_EXITED; CLD_KILLED, CLD_DUMPED

# Only what a user's own instance of systemd can enforce; file systems are not among it.
_HARDENING = (
    "NoNewPrivileges=true",
    "LockPersonality=true",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "RestrictSUIDSGID=true",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "SystemCallArchitectures=native",
    "UMask=0077",
)


def unit(service: Definition) -> str:
    """The unit file: started with the user's session, and again after a failure."""
    return "\n".join(
        (
            "[Unit]",
            "Description=mxserve, an OpenAI-compatible model server",
            "StartLimitIntervalSec=300",
            "StartLimitBurst=5",
            "",
            "[Service]",
            "Type=exec",
            f"WorkingDirectory={service.folder.replace('%', '%%')}",
            f"ExecStart={' '.join(_quoted(word) for word in service.command)}",
            *(
                f"Environment={_assignment(name, text)}"
                for name, text in service.environment.items()
            ),
            "Restart=on-failure",
            "RestartSec=15",
            "# A wrong setting is not mended by a restart.",
            f"RestartPreventExitStatus={EXIT_CONFIG}",
            "# Longer than the drain, so that requests in flight can finish.",
            f"TimeoutStopSec={service.stop_s}",
            "KillMode=mixed",
            *_HARDENING,
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        )
    )


class Systemd:
    """The service of this user. run: as subprocess.run, with its output kept."""

    log_file: Path | None = None

    def __init__(self, config_home: Path, run: Run) -> None:
        self._run = run
        self.file = config_home / "systemd" / "user" / UNIT

    def text(self, service: Definition) -> bytes:
        return unit(service).encode()

    def install(self, service: Definition, *, start: bool) -> None:
        """Writes the unit, enables it and starts it; one that runs is replaced."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(unit(service), encoding="utf-8")
        self.file.chmod(0o600)
        self._ctl("daemon-reload")
        self._ctl("enable", UNIT)
        if start:
            self._ctl("restart", UNIT)

    def uninstall(self) -> None:
        if self.file.exists():
            self._ctl("disable", "--now", UNIT)
            self.file.unlink()
            self._ctl("daemon-reload")

    def start(self) -> None:
        self._needs_file()
        self._ctl("start", UNIT)

    def stop(self) -> None:
        self._needs_file()
        self._ctl("stop", UNIT)

    def state(self) -> State:
        shown = self._ctl("show", UNIT, f"--property={','.join(_SHOWN)}")
        facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        pid = int(facts.get("MainPID") or 0)
        how, status = facts.get("ExecMainCode"), int(facts.get("ExecMainStatus") or 0)
        return State(
            loaded=facts.get("LoadState") == "loaded",
            pid=pid or None,
            last_exit=status if how == _EXITED and not pid else None,
            last_signal=status if how in _BY_SIGNAL and not pid else None,
            returning=facts.get("SubState") == "auto-restart",
        )

    def installed(self) -> Installed:
        """Raises ServiceError where there is none, or it cannot be read."""
        self._needs_file()
        command: tuple[str, ...] = ()
        environment: dict[str, str] = {}
        for line in self.file.read_text(encoding="utf-8").splitlines():
            name, _, text = line.partition("=")
            if name == "ExecStart":
                command = tuple(_unquoted(word) for word in shlex.split(text))
            elif name == "Environment":
                for word in shlex.split(text):
                    variable, _, value = _unescaped(word).partition("=")
                    environment[variable] = value
        return Installed(command, environment)

    def logs(self, lines: int, *, follow: bool) -> list[str]:
        """The command that shows the log."""
        log_file = self.installed().settings().log_file
        if log_file is not None:
            return tail(log_file, lines, follow=follow)
        follows = ["--follow"] if follow else []
        return ["journalctl", "--user-unit", UNIT, "--lines", str(lines), "--no-pager", *follows]

    def _needs_file(self) -> None:
        if not self.file.exists():
            raise ServiceError(f"not installed: there is no {self.file}")

    def _ctl(self, *arguments: str) -> str:
        return checked(self._run(["systemctl", "--user", *arguments]))


def _escaped(text: str) -> str:
    if "\n" in text:
        raise ServiceError("a unit file cannot hold a line break")
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _unescaped(word: str) -> str:
    return word.replace("%%", "%")


def _quoted(word: str) -> str:
    """A word of ExecStart, where $ begins a variable too."""
    return f'"{_escaped(word)}"'.replace("$", "$$")


def _unquoted(word: str) -> str:
    return _unescaped(word).replace("$$", "$")


def _assignment(name: str, text: str) -> str:
    return f'"{name}={_escaped(text)}"'
