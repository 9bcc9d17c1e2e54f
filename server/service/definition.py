"""What a service runs: the command, its environment and its times, before any file format.

Knows the flags of `mxserve serve` and which variables go along; nothing of launchd and systemd.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.settings import PREFIX, Settings, SettingsError, load_settings

NAME = "mxserve"
SECRETS = ("MXSERVE_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Where models are found; the service has to look in the same place.
CARRIED = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT")
PATHS = ("config", "disk_cache", "response_store", "key_file", "log_file")
AFTER_DRAIN_S = 15  # saving the prompt cache and taking down the worker


@dataclass(frozen=True, slots=True)
class Definition:
    """arguments: of the program, `serve` first. stop_s: seconds it has to end after SIGTERM.
    log_file: where the server writes its log, None for standard error."""

    program: tuple[str, ...]
    arguments: tuple[str, ...]
    folder: str
    stop_s: int
    environment: Mapping[str, str] = field(default_factory=dict)
    log_file: str | None = None

    @property
    def command(self) -> tuple[str, ...]:
        return (*self.program, *self.arguments)


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installed service runs, read back from its file."""

    command: tuple[str, ...]
    environment: Mapping[str, str]

    def settings(self) -> Settings:
        """The settings that the service runs with. Raises SettingsError."""
        if "serve" not in self.command:
            raise SettingsError("the service does not run mxserve serve")
        flags = serve_flags(self.command[self.command.index("serve") + 1 :])
        return settings_under(self.environment, flags)


def define(flags: Mapping[str, Any], extra: Mapping[str, str], log_file: Path | None) -> Definition:
    """The service for these flags of `mxserve serve` and variables that it shall have besides.

    Raises SettingsError where the server would not start with them, and for secrets.
    """
    environment = {**_carried(os.environ), **extra}
    for name in SECRETS:
        if name in environment or (name in os.environ and name.startswith(PREFIX)):
            raise SettingsError(
                f"{name} would be written into the service's file: "
                "use --key-file (mxserve key new makes one), and download models before"
            )
    if "api_key" in flags:
        raise SettingsError("api_key: every program can read a command line: use --key-file")
    flags = {name: _absolute(name, value) for name, value in flags.items()}
    if log_file is not None:
        flags.setdefault("log_file", str(log_file))
    settings = settings_under(environment, flags)
    if settings.port == 0:
        raise SettingsError("port: a service needs a port that stays the same")
    return Definition(
        program=program(),
        arguments=("serve", *_spelled(flags)),
        folder=str(Path.home()),
        stop_s=int(settings.drain_timeout) + AFTER_DRAIN_S,
        environment=environment,
        log_file=flags.get("log_file"),
    )


def program() -> tuple[str, ...]:
    """How this mxserve is started. A name on PATH that leads here outlives an upgrade, which the
    folder of a version does not."""
    script = Path(sys.executable).parent / NAME
    named = shutil.which(NAME)
    if named is not None and os.path.realpath(named) == os.path.realpath(script):
        return (str(Path(named).absolute()),)
    if script.is_file():
        return (str(script),)
    return (sys.executable, "-P", "-m", "server")


def serve_flags(arguments: Sequence[str]) -> dict[str, Any]:
    """`arguments` as `mxserve serve` parses them; ends the process where it would."""
    from server.cli import parser

    flags = vars(parser().parse_args(["serve", *arguments]))
    flags.pop("command")
    return flags


def settings_under(environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """The settings of a server with exactly these variables. Raises SettingsError."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}
    ours = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
    os.environ.update(ours)
    try:
        return load_settings(flags)
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)


def _carried(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: text
        for name, text in sorted(environment.items())
        if (name.startswith(PREFIX) or name in CARRIED) and name not in SECRETS
    }


def _absolute(name: str, value: Any) -> Any:
    """A path means the same in another folder; a model may also be a hub id."""
    if not isinstance(value, str) or value in ("off", "memory"):
        return value
    path = Path(value).expanduser()
    is_path = name in PATHS or (name == "model" and path.exists())
    return str(path.absolute()) if is_path else value


def _spelled(flags: Mapping[str, Any]) -> Iterator[str]:
    for option, action in _options():
        value = flags.get(action.dest)
        if value is None or value is False:
            continue
        if value is True:
            yield option
        else:
            for text in value if isinstance(value, list) else [value]:
                yield from (option, str(text))


def _options() -> Iterator[tuple[str, argparse.Action]]:
    """The flags of `mxserve serve`, in their order there."""
    from server.cli import serve_parser

    for action in serve_parser()._actions:
        if action.option_strings and action.dest != "help":
            yield action.option_strings[-1], action
