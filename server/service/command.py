"""`mxserve service install | uninstall | start | stop | restart | status | logs`.

Knows words and exit statuses; launchd.py and systemd.py know how each is done.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess

from server.service import health
from server.service.definition import define, serve_flags
from server.service.launchd import Launchd
from server.service.state import ServiceError, State
from server.service.systemd import Systemd
from server.settings import SettingsError

EXIT_FAILED = 1
EXIT_NOT_READY = 2
EXIT_NOT_RUNNING = 3  # as systemctl has it
EXIT_NOT_INSTALLED = 4
EXIT_CONFIG = 78
Supervisor = Launchd | Systemd


def main(argv: Sequence[str], *, platform: str = sys.platform) -> int:
    """Runs `mxserve service ARGV`; returns the exit status."""
    options, rest = parsed(argv)
    try:
        supervisor = supervisor_of(platform)
        if options.command == "install":
            return _install(supervisor, options, rest)
        if options.command == "status":
            return _status(supervisor)
        if options.command == "logs":
            return _logs(supervisor, options)
        return _simple(supervisor, options.command)
    except SettingsError as error:
        print(f"mxserve: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except (ServiceError, OSError) as error:
        print(f"mxserve: {error}", file=sys.stderr)
        return EXIT_FAILED


def parsed(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and the flags of `mxserve serve` behind `install`; ends the
    process where they are wrong."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if options.command == "install":
        serve_flags(rest)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options, rest


def supervisor_of(platform: str) -> Supervisor:
    """What runs services here. Raises ServiceError where nothing is known."""
    if platform == "darwin":
        return Launchd(Path.home(), _run)
    if platform == "linux":
        base = os.environ.get("XDG_CONFIG_HOME", "")
        return Systemd(Path(base) if os.path.isabs(base) else Path.home() / ".config", _run)
    raise ServiceError(f"services are known on macOS and Linux, not on {platform}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxserve service",
        description="A server that starts at login, and again when it fails: launchd on macOS, "
        "systemd on Linux, both as the user who is logged in.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    install = commands.add_parser(
        "install",
        help="write the service's file and start it",
        usage="mxserve service install [--print] [--no-start] [--env NAME=VALUE ...] "
        "[flags of mxserve serve ...]",
        description="Flags that are not listed here are those of mxserve serve. MXSERVE_ "
        "variables that are set now go into the service too. Installing again replaces it.",
        allow_abbrev=False,
    )
    install.add_argument("--print", action="store_true", help="show the file; change nothing")
    install.add_argument("--no-start", action="store_true", help="write the file only")
    install.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="a variable; repeatable"
    )
    commands.add_parser("uninstall", help="stop it and remove the file")
    commands.add_parser("start", help="start it")
    commands.add_parser("stop", help="let requests finish, and stop it until the next login")
    commands.add_parser("restart", help="stop and start")
    commands.add_parser(
        "status",
        help="whether it runs, and what the server says of itself",
        description="Exit status: 0 ready, 2 not ready, 3 not running, 4 not installed.",
    )
    logs = commands.add_parser("logs", help="the server's log")
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="how many (default: 100)")
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what is added")
    return parser


def _install(supervisor: Supervisor, options: argparse.Namespace, rest: Sequence[str]) -> int:
    service = define(serve_flags(rest), _variables(options.env), supervisor.log_file)
    if options.print:
        print(supervisor.text(service).decode(), end="")
        return 0
    supervisor.install(service, start=not options.no_start)
    print(f"installed: {supervisor.file}")
    if not options.no_start:
        settings = supervisor.installed().settings()
        print(f"started; the model may take a while to load: {health.url_of(settings)}/v1")
        print("mxserve service status says when it is ready; mxserve service logs shows more")
    return 0


def _simple(supervisor: Supervisor, command: str) -> int:
    if command == "uninstall":
        known = supervisor.file.exists()
        supervisor.uninstall()
        print(f"removed: {supervisor.file}" if known else _not_installed(supervisor))
    elif command == "start":
        supervisor.start()
    else:
        supervisor.installed()
        supervisor.stop()
        if command == "restart":
            supervisor.start()
    return 0


def _status(supervisor: Supervisor) -> int:
    if not supervisor.file.exists():
        print(_not_installed(supervisor))
        return EXIT_NOT_INSTALLED
    state = supervisor.state()
    print(f"service   {_told(state)}")
    url = health.url_of(supervisor.installed().settings())
    found = health.asked(url)
    if found is None:
        print(f"health    nobody answers at {url}")
        return EXIT_NOT_RUNNING if state.pid is None else EXIT_NOT_READY
    print(f"url       {url}/v1")
    print("\n".join(health.lines(found)))
    if state.pid is None:
        print(f"another process than the service's answers at {url}", file=sys.stderr)
        return EXIT_NOT_RUNNING
    return 0 if found["status"] == "ok" else EXIT_NOT_READY


def _told(state: State) -> str:
    if state.pid is not None:
        return f"running, pid {state.pid}"
    if not state.loaded:
        return "not loaded (mxserve service start)"
    ended = "" if state.last_exit is None else f", last exit status {state.last_exit}"
    if state.last_signal is not None:
        ended = f", ended by signal {_signal_name(state.last_signal)}"
    return f"not running{ended}{'; it is started again soon' if state.returning else ''}"


def _signal_name(number: int) -> str:
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)


def _not_installed(supervisor: Supervisor) -> str:
    return f"not installed: there is no {supervisor.file}"


def _logs(supervisor: Supervisor, options: argparse.Namespace) -> int:
    command = supervisor.logs(options.lines, follow=options.follow)
    try:
        return subprocess.run(command, check=False).returncode  # noqa: S603
    except KeyboardInterrupt:
        return 0


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise SettingsError(f"env: {pair!r} is not NAME=VALUE")
        found[name] = text
    return found


def _run(command: Sequence[str]) -> CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            list(command), capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ServiceError(f"{command[0]} is not here") from None
