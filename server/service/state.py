"""How a service stands in its supervisor, and what goes wrong in talking to one."""

from __future__ import annotations

from dataclasses import dataclass
from subprocess import CompletedProcess


class ServiceError(Exception):
    """What was asked for could not be done; str() is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class State:
    """loaded: the supervisor knows it; pid: None where it does not run; last_exit, last_signal: the
    status or the signal it ended with last, where that is known; returning: it failed, and is
    about to be started again."""

    loaded: bool
    pid: int | None = None
    last_exit: int | None = None
    last_signal: int | None = None
    returning: bool = False


def checked(done: CompletedProcess[str]) -> str:
    """What a command printed. Raises ServiceError where it failed."""
    if done.returncode != 0:
        told = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
        raise ServiceError(f"{' '.join(done.args[:2])}: {told}")
    return done.stdout
