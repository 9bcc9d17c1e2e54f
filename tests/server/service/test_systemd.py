"""`mxserve service` on Linux, against a fake systemctl; its unit against systemd-analyze."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from server.cli import serve_parser
from server.service import main
from server.service.definition import Definition, Installed
from server.service.systemd import Systemd, unit
from tests.server.service.conftest import Machine


def service(*arguments: str) -> int:
    return main(arguments, platform="linux")


def unit_file(machine: Machine) -> Path:
    return machine.home / ".config" / "systemd" / "user" / "mxserve.service"


def test_install_writes_a_unit_enables_and_starts_it(machine: Machine):
    assert service("install", "--drain-timeout", "50") == 0
    lines = unit_file(machine).read_text().splitlines()
    assert "Restart=on-failure" in lines
    assert "WantedBy=default.target" in lines
    (stop,) = [line for line in lines if line.startswith("TimeoutStopSec=")]
    assert int(stop.partition("=")[2]) > 50
    assert machine.calls() == [
        "systemctl --user daemon-reload",
        "systemctl --user enable mxserve.service",
        "systemctl --user restart mxserve.service",
    ]


def test_no_flag_is_forgotten(machine: Machine, capsys: pytest.CaptureFixture[str]):
    switches = [action.option_strings[0] for action in serve_parser()._actions if action.nargs == 0]
    assert "--no-page" in switches
    flags = [switch for switch in switches if switch not in ("-h", "--help")]
    assert service("install", "--print", *flags, "--cors-origin", "https://a.example") == 0
    shown = capsys.readouterr().out
    assert [flag for flag in (*flags, "https://a.example") if f'"{flag}"' not in shown] == []


def test_start_stop_restart_logs(machine: Machine):
    assert service("install", "--no-start") == 0
    machine.calls()
    for command in ("start", "stop", "restart"):
        assert service(command) == 0
    assert service("logs", "-f") == 0
    verbs = ["start", "stop", "stop", "start"]
    assert machine.calls() == [
        *(f"systemctl --user {verb} mxserve.service" for verb in verbs),
        "journalctl --user-unit mxserve.service --lines 100 --no-pager --follow",
    ]


def test_uninstall(machine: Machine):
    assert service("install") == 0
    machine.calls()
    assert service("uninstall") == 0
    assert not unit_file(machine).exists()
    assert machine.calls() == [
        "systemctl --user disable --now mxserve.service",
        "systemctl --user daemon-reload",
    ]
    assert service("stop") == 1


def test_what_is_not_there(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert service("status") == 4
    assert service("uninstall") == 0
    assert service("logs") == 1
    told = capsys.readouterr()
    assert (told.out + told.err).count("not installed: there is no") == 3
    assert "removed" not in told.out
    assert machine.calls() == []


def test_the_log_is_a_file_where_the_server_writes_one(machine: Machine):
    assert service("install", "--log-file", "/logs/mine") == 0
    machine.calls()
    assert service("logs", "--follow", "--lines", "7") == 0
    assert machine.calls() == ["tail -n 7 -F /logs/mine"]


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ("ExecMainCode=0\nExecMainStatus=0", "service   not running\n"),
        ("ExecMainCode=1\nExecMainStatus=0", "not running, last exit status 0\n"),
        ("ExecMainCode=2\nExecMainStatus=9", "not running, ended by signal 9 (SIGKILL)\n"),
        (
            "SubState=auto-restart\nExecMainCode=3\nExecMainStatus=11",
            "ended by signal 11 (SIGSEGV); it is started again soon\n",
        ),
    ],
)
def test_how_it_ended(machine: Machine, capsys: pytest.CaptureFixture[str], shown: str, told: str):
    assert service("install", "--no-start", "--port", "1") == 0  # where nobody listens
    (machine.state / "ended").write_text(shown)
    assert service("status") == 3
    assert told in capsys.readouterr().out


def test_a_failed_start_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]):
    (machine.state / "broken").touch()
    assert service("install") == 1
    assert "Job failed." in capsys.readouterr().err


def awkward(folder: str) -> Definition:
    return Definition(
        program=(shutil.which("true") or "/bin/true",),
        arguments=("serve", "--model", '/a folder/100%/$HOME "x" \\y'),
        folder=folder,
        stop_s=45,
        environment={"MXSERVE_SERVED_MODEL_NAME": 'a "b" 50% \\'},
    )


def test_what_is_written_is_read_back(machine: Machine):
    supervisor = Systemd(machine.home / ".config", lambda command: pytest.fail(str(command)))
    written = awkward("/tmp")
    supervisor.file.parent.mkdir(parents=True)
    supervisor.file.write_text(unit(written))
    assert supervisor.installed() == Installed(written.command, written.environment)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_finds_nothing_wrong(tmp_path: Path):
    path = tmp_path / "mxserve.service"
    path.write_text(unit(awkward(str(tmp_path))))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(path)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
