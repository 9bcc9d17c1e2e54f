"""What the exercises of agents share: a prompt headless, a second turn, a tool; by the relay."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relay import Passed, Relay
from report import FRANCE, ITALY, KEY, MODEL, ROOT, check, expect

HOME = Path(os.environ["HOME"])
WORK = HOME / "work"
NOTE = "blue river stone"
FILE = WORK / "notes.txt"
READ = "Read the file notes.txt."
relay = Relay(ROOT, HOME / "wire.jsonl")


def prepare() -> None:
    """The folder the agents work in, with one file."""
    WORK.mkdir(exist_ok=True)
    FILE.write_text(NOTE + "\n")


def call(*command: str, typed: str = "", seconds: float = 580, **environment: str) -> str:
    """What the command wrote on stdout, `typed` being its stdin; a status other than 0 is a failure
    that shows its words."""
    env = {**os.environ, "HTTPS_PROXY": relay.url, "HTTP_PROXY": relay.url,
           "https_proxy": relay.url, "http_proxy": relay.url,
           "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
           **environment}  # fmt: skip
    keys, out, err = (HOME / f"agent.{name}" for name in ("in", "out", "err"))
    keys.write_text(typed)
    with keys.open() as stdin, out.open("w") as stdout, err.open("w") as stderr:
        status = subprocess.run(
            command, cwd=WORK, env=env, stdin=stdin, stdout=stdout, stderr=stderr,
            timeout=seconds, check=False,
        ).returncode  # fmt: skip
    said, complained = out.read_text(errors="replace"), err.read_text(errors="replace")
    expect(status == 0, f"status {status}: {complained[-300:]} {said[-300:]}; {wire()}")
    return said


def wire() -> str:
    """What went by, in short, for the message of a failure."""
    return "; ".join(
        f"{p.method} {p.path} {p.status} ({p.reused} of {p.tokens} cached)"
        + (f" {p.answer[:200]}" if p.status >= 400 else "")
        for p in relay.passed
    )


def well_answered(path: str) -> list[Passed]:
    """The requests to `path`: there was one, and every one was answered."""
    asked = [p for p in relay.passed if p.path.endswith(path)]
    expect(asked and all(p.status == 200 for p in asked), wire())
    return asked


def shown(answer: str, asked: list[Passed]) -> None:
    """The agent's final words are those of one of the server's answers, but for white space."""
    words, texts = squeezed(answer), [squeezed(p.text) for p in asked]
    same = any(text in words if text else not words for text in texts)
    expect(same, (answer[-300:], texts[-2:]))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def cached(passed: Passed, tokens: int, share: float = 0.9) -> None:
    """The request took this share at least of a prompt of `tokens` from the cache."""
    expect(passed.reused >= share * tokens, f"{passed.reused} of {tokens}; {wire()}")


def exercise(
    ask: Callable[[str], str],
    again: Callable[[str], str] | None,
    *,
    path: str,
    tool: str,
    arguments: dict[str, Any],
    use: Callable[[str], str] | None = None,
    found: bool = True,
    share: float = 0.9,
    label: str = "",
    others: dict[str, dict[str, Any]] | None = None,
) -> None:
    """The checks of an agent. `ask` runs it with a prompt and returns its final words, `again`
    goes on with that conversation (None where it cannot); `path` is the route it has to use. `use`
    (or `ask`) has it call its `tool` with `arguments`, which read the note. `found` is whether the
    demo finds the question among what the agent says with it; if not, any answer is right that is
    shown as it was given. `share` is how much of the first turn's prompt has to come from the cache
    in the second, `label` begins the names of the checks. `others` are the only
    arguments of other tools."""
    prepare()
    relay.pinned = {**(others or {}), tool: arguments}
    turn: list[Passed] = []

    suffix = "" if found else ", any answer"

    @check(f"{label}one prompt, headless{suffix}")
    def one() -> None:
        relay.passed.clear()
        answer = ask(FRANCE)
        turn[:] = well_answered(path)
        shown(answer, turn)
        expect("Paris" in answer or not found, answer[-300:])

    second = "second turn" if again else "second conversation's beginning"

    @check(f"{label}{second} cached{suffix}")
    def two() -> None:
        relay.passed.clear()
        answer = (again or ask)(ITALY)
        asked = well_answered(path)
        shown(answer, asked)
        expect("Rome" in answer or not found, answer[-300:])
        before = max(passed.tokens for passed in turn)
        # A request for a title is shorter.
        main = next((passed for passed in asked if passed.tokens > share * before), asked[0])
        expect((FRANCE in json.dumps(main.request)) == bool(again), f"history; {wire()}")
        cached(main, before, share)

    @check(f"{label}tool {tool}: called, run, its result sent back, cached")
    def with_tool() -> None:
        relay.passed.clear()
        relay.force = tool
        answer = (use or ask)(READ)
        asked = well_answered(path)
        called = [p for p in asked if p.forced]
        expect(called, f"{tool} was not offered; {wire()}")
        back = [p for p in asked if p.results]
        expect(back, f"no result came back; {wire()}; {asked[-1].answer[-400:]}")
        expect(NOTE in back[0].results[-1], back[0].results)
        cached(back[0], called[0].tokens)
        shown(answer, asked)

    if relay.refused:
        print("note: it also tried to reach " + ", ".join(sorted(relay.refused)), flush=True)


__all__ = [
    "FILE", "HOME", "KEY", "MODEL", "WORK", "cached", "call", "exercise", "prepare", "relay",
    "shown", "well_answered", "wire",
]  # fmt: skip
