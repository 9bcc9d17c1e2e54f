"""How a service stands in its supervisor, and what goes wrong in talking to one."""

from __future__ import annotations

from dataclasses import dataclass
from subprocess import CompletedProcess


class ServiceError(Exception):
    """What was asked for could not be done; str() is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class State:
    """installed: its file is there; loaded: the supervisor knows it; pid: None where it does not
    run; last_exit: the status it ended with last, where that is known."""

    installed: bool
    loaded: bool
    pid: int | None = None
    last_exit: int | None = None


def checked(done: CompletedProcess[str]) -> str:
    """What a command printed. Raises ServiceError where it failed."""
    if done.returncode != 0:
        told = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
        raise ServiceError(f"{' '.join(done.args[:2])}: {told}")
    return done.stdout
