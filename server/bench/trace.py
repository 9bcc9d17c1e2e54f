"""An agent trace: what a client says turn by turn, without the model's answers.

Knows the file format and the order of the turns of several sessions. Nothing of servers or tokens:
the answers come from whoever is measured, so the history grows by what that server really said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from server.bench.client import BenchError
from server.bench.workloads import words

FORMAT = "mxserve-trace-1"
FOLDER = Path(__file__).parent / "traces"
MAIN = "main"
WHO = "{who}"

Kind = Literal["user", "results", "edit", "regenerate", "branch"]
KINDS: tuple[Kind, ...] = ("results", "edit", "regenerate", "branch", "user")


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a client, on one line of one session's history.

    user: `text` is a new message. results: one tool result for each call of the last answer, in
    turn from `results`; an answer that called nothing is first replaced by `calls`. edit: the user
    message number `at` (from 0) becomes `text` and what followed it is dropped. regenerate: the
    last answer is dropped and asked for again. branch: `line` begins as the main line up to before
    user message number `at`, and goes on with `text`.
    """

    kind: Kind
    text: str = ""
    at: int = 0
    line: str = MAIN
    results: tuple[str, ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A turn of session number `session`, the turn's number `turn` there (both from 0)."""

    session: int
    turn: int
    what: Turn


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole trace. All sessions say the same turns, `{who}` in them being the session's own name.

    thinking: whether answers think. echo: the client sends thoughts back with the history (else
    strips them); preserve: the template is asked to keep those of earlier turns. pause_s: how long
    the client waits between an answer and the next request, seconds.
    """

    name: str
    about: str
    turns: tuple[Turn, ...]
    system: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    sessions: int = 1
    thinking: bool = True
    echo: bool = False
    preserve: bool = False
    max_tokens: int = 128
    pause_s: float = 0.0

    def steps(self, limit: int | None = None) -> list[Step]:
        """All requests in order: the sessions take turns. `limit`: turns of each session."""
        return [
            Step(session, number, _named(turn, session))
            for number, turn in enumerate(self.turns[:limit])
            for session in range(self.sessions)
        ]


def _named(turn: Turn, session: int) -> Turn:
    text = turn.text.replace(WHO, f"guest {session + 1}")
    return Turn(turn.kind, text, turn.at, turn.line, turn.results, turn.calls)


def builtin() -> dict[str, Path]:
    """The traces that come with the program, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.json"))}


def find(name: str) -> Trace:
    """A trace by its name, or by the path of its file. Raises BenchError."""
    known = builtin()
    if name in known:
        return read(known[name])
    path = Path(name).expanduser()
    if not path.is_file():
        raise BenchError(f"there is no trace {name!r}; known: {', '.join(known)}, all")
    return read(path)


def read(path: Path) -> Trace:
    """Raises BenchError when the file cannot be read or is no trace."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        return parse(document)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BenchError(f"{path}: not a trace: {error}") from error


def parse(document: Mapping[str, Any]) -> Trace:
    """A file's JSON as a Trace. Raises ValueError, TypeError or LookupError."""
    turns = tuple(_turns(document["turns"]))
    if not turns:
        raise ValueError("it has no turns")
    sessions = int(document.get("sessions", 1))
    if sessions < 1:
        raise ValueError("it has no sessions")
    return Trace(
        name=str(document["name"]),
        about=str(document["about"]),
        turns=turns,
        system=_text(document.get("system", "")),
        tools=tuple(document.get("tools", ())),
        sessions=sessions,
        thinking=bool(document.get("thinking", True)),
        echo=bool(document.get("echo", False)),
        preserve=bool(document.get("preserve", False)),
        max_tokens=int(document.get("max_tokens", 128)),
        pause_s=float(document.get("pause_s", 0.0)),
    )


def _turns(listed: Any) -> Iterator[Turn]:
    said = {MAIN: 0}
    for number, entry in enumerate(listed):
        kind: Kind | None = next((kind for kind in KINDS if kind in entry), None)
        if kind is None:
            raise ValueError(f"turn {number} is none of {', '.join(KINDS)}")
        line = str(entry.get("line", MAIN))
        at = int(entry[kind]) if kind in ("edit", "branch") else 0
        source = MAIN if kind == "branch" else line
        if source not in said or at >= max(1, said[source]):
            raise ValueError(f"turn {number}: there is no such message on line {source!r}")
        if not said[source] and kind != "user":
            raise ValueError(f"turn {number}: nothing was said before")
        if kind in ("edit", "branch"):
            said[line] = at + 1
        elif kind == "user":
            said[line] += 1
        results = tuple(map(str, entry.get("results", ())))
        if kind == "results" and not results:
            raise ValueError(f"turn {number} has no results")
        text = _text(entry.get("user", ""))
        yield Turn(kind, text, at, line, results, tuple(entry.get("calls", ())))


def _text(value: Any) -> str:
    """A string, or `{"words": count, "seed": n, "then": text}`: long text of little size."""
    if isinstance(value, str):
        return value
    return words(int(value["words"]), int(value["seed"])) + str(value.get("then", ""))
