"""`mxserve service` on macOS, against a fake launchctl."""

from __future__ import annotations

import os
import plistlib
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from server.service import main
from server.service.definition import program
from server.service.launchd import Launchd
from tests.server.service.conftest import Machine

TARGET = f"gui/{os.getuid()}/mxserve"


def service(*arguments: str) -> int:
    return main(arguments, platform="darwin")


def agent(machine: Machine) -> Path:
    return machine.home / "Library" / "LaunchAgents" / "mxserve.plist"


def content(machine: Machine) -> dict[str, Any]:
    return plistlib.loads(agent(machine).read_bytes())


def test_install_writes_an_agent_and_starts_it(machine: Machine):
    assert service("install", "--port", "8099", "--drain-timeout", "50") == 0
    log = str(machine.home / "Library" / "Logs" / "mxserve.log")
    found = content(machine)
    at = found["ProgramArguments"].index("serve")
    assert found["ProgramArguments"][at:] == [
        *("serve", "--port", "8099", "--drain-timeout", "50", "--log-file", log)
    ]
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["ThrottleInterval"] > 0
    assert found["ExitTimeOut"] > 50
    assert found["StandardOutPath"] == found["StandardErrorPath"] == log
    assert stat.S_IMODE(agent(machine).stat().st_mode) == 0o600
    domain = TARGET.rsplit("/", 1)[0]
    assert machine.changes() == [
        f"launchctl enable {TARGET}",
        f"launchctl bootstrap {domain} {agent(machine)}",
    ]


def test_installing_again_waits_until_the_old_one_is_gone(machine: Machine):
    assert service("install") == 0
    machine.calls()
    assert service("install", "--port", "8099") == 0
    bootout, enable, bootstrap = machine.changes()
    assert bootout == f"launchctl bootout {TARGET}"
    assert enable.startswith("launchctl enable")
    assert bootstrap.startswith("launchctl bootstrap")
    assert "8099" in plistlib.loads((machine.state / "loaded").read_bytes())["ProgramArguments"]


def test_stop_start_restart(machine: Machine, capsys: pytest.CaptureFixture[str]):
    domain = TARGET.rsplit("/", 1)[0]
    begin = [
        f"launchctl enable {TARGET}",
        f"launchctl bootstrap {domain} {agent(machine)}",
    ]
    assert service("install") == 0
    machine.calls()
    assert service("stop") == 0
    assert machine.changes() == [f"launchctl bootout {TARGET}"]
    assert service("status") == 3
    assert "not loaded" in capsys.readouterr().out
    assert service("stop") == 0
    assert machine.changes() == []
    assert service("start") == 0
    assert machine.changes() == begin
    assert service("start") == 0
    assert machine.changes() == [f"launchctl kickstart {TARGET}"]
    assert service("restart") == 0
    assert machine.changes() == [f"launchctl bootout {TARGET}", *begin]


def test_uninstall_leaves_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert service("install") == 0
    assert service("uninstall") == 0
    assert not agent(machine).exists()
    assert f"launchctl bootout {TARGET}" in machine.calls()
    assert service("status") == 4
    assert service("uninstall") == 0  # nothing to do is no failure
    assert service("start") == 1
    assert "not installed" in capsys.readouterr().err


def test_environment_goes_along_and_secrets_do_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MXSERVE_MAX_BATCH", "4")
    monkeypatch.setenv("HF_HOME", "/models")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert service("install", "--env", "MLX_METAL_DEBUG=1", "--no-start") == 0
    assert content(machine)["EnvironmentVariables"] == {
        "HF_HOME": "/models",
        "MXSERVE_MAX_BATCH": "4",
        "MLX_METAL_DEBUG": "1",
    }
    assert not any("bootstrap" in call for call in machine.calls())
    agent(machine).unlink()
    monkeypatch.setenv("MXSERVE_API_KEY", "secret")
    assert service("install") == 78
    monkeypatch.delenv("MXSERVE_API_KEY")
    assert service("install", "--api-key", "secret") == 78
    assert service("install", "--env", "HF_TOKEN=secret") == 78
    assert not agent(machine).exists()
    assert "secret" not in capsys.readouterr().err


def test_paths_are_those_of_the_folder_where_it_was_installed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "weights", "--disk-cache", "cache", "--response-store", "off"]
    assert service("install", *flags) == 0
    arguments = content(machine)["ProgramArguments"]
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / "weights")
    assert arguments[arguments.index("--disk-cache") + 1] == str(tmp_path / "cache")
    assert arguments[arguments.index("--response-store") + 1] == "off"
    assert service("install", "--model", "Owner/Name") == 0
    arguments = content(machine)["ProgramArguments"]
    assert arguments[arguments.index("--model") + 1] == "Owner/Name"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--port", "99999"], "port"),
        (["--port", "0"], "port"),
        (["--host", "0.0.0.0"], "reachable"),
        (["--env", "no-value"], "NAME=VALUE"),
    ],
)
def test_what_would_not_start_is_not_installed(
    flags: list[str], told: str, machine: Machine, capsys: pytest.CaptureFixture[str]
):
    assert service("install", *flags) == 78
    assert told in capsys.readouterr().err
    assert not agent(machine).exists()
    assert not machine.calls()


def test_a_flag_that_does_not_exist(machine: Machine):
    for arguments in (["install", "--prot", "8080"], ["stop", "--port", "8080"]):
        with pytest.raises(SystemExit) as ended:
            service(*arguments)
        assert ended.value.code == 2
    assert not machine.calls()


def test_print_changes_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert service("install", "--print", "--port", "8099") == 0
    shown = plistlib.loads(capsys.readouterr().out.encode())
    assert "8099" in shown["ProgramArguments"]
    assert not agent(machine).exists()
    assert not machine.calls()


def test_logs_follow_the_file_through_its_rotation(machine: Machine):
    assert service("install", "--log-file", "/logs/mine") == 0
    machine.calls()
    assert service("logs", "--follow", "--lines", "7") == 0
    assert machine.calls() == ["tail -n 7 -F /logs/mine"]


def test_launchctl_that_refuses_is_told(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert service("install", "--no-start") == 0
    (machine.state.parent / "bin" / "launchctl").write_text(
        '#!/bin/sh\n[ "$1" != bootstrap ] || echo "Bootstrap failed: 125" >&2\nexit 125\n'
    )
    assert service("start") == 1
    assert "Bootstrap failed: 125" in capsys.readouterr().err


def test_elsewhere_there_is_no_service(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert main(["status"], platform="win32") == 1
    assert "not on win32" in capsys.readouterr().err


def test_a_name_on_path_outlives_the_folder_of_a_version(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    version = machine.home / "1.0" / "bin"
    version.mkdir(parents=True)
    (version / "mxserve").write_text("#!/bin/sh\n")
    (version / "mxserve").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(version / "python"))
    assert program() == (str(version / "mxserve"),)
    named = machine.state.parent / "bin" / "mxserve"
    named.symlink_to(version / "mxserve")
    assert program() == (str(named),)
    named.unlink()
    (version / "mxserve").unlink()
    assert program() == (str(version / "python"), "-P", "-m", "server")


@pytest.mark.parametrize(
    ("printed", "exit_code", "signal"),
    [
        ("\tlast exit code = 70", 70, None),
        ("\tlast exit code = 0\n\tlast terminating signal = Killed: 9", 0, 9),
        ("\tlast exit code = (never exited)", None, None),
    ],
)
def test_how_it_ended(tmp_path: Path, printed: str, exit_code: int | None, signal: int | None):
    def run(command: Sequence[str]) -> CompletedProcess[str]:
        return CompletedProcess(command, 0, stdout=f"gui/0/mxserve = {{\n{printed}\n}}\n")

    state = Launchd(tmp_path, run).state()
    assert (state.last_exit, state.last_signal) == (exit_code, signal)
