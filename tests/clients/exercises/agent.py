"""What the exercises of agents share: one prompt headless, one with a tool, through the relay."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from relay import Relay
from report import FRANCE, KEY, MODEL, ROOT, check, expect

HOME = Path(os.environ["HOME"])
WORK = HOME / "work"
NOTE = "blue river stone"
READ = "Read the file notes.txt."
relay = Relay(ROOT)


def prepare() -> None:
    """The folder the agents work in, with one file."""
    WORK.mkdir(exist_ok=True)
    (WORK / "notes.txt").write_text(NOTE + "\n")


def call(*command: str, seconds: float = 580, **environment: str) -> str:
    """What the command wrote on stdout; a status other than 0 is a failure that shows its words."""
    env = {**os.environ, "HTTPS_PROXY": relay.url, "HTTP_PROXY": relay.url,
           "https_proxy": relay.url, "http_proxy": relay.url,
           "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
           **environment}  # fmt: skip
    out, err = HOME / "agent.out", HOME / "agent.err"
    with out.open("w") as stdout, err.open("w") as stderr:
        status = subprocess.run(
            command, cwd=WORK, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            timeout=seconds, check=False,
        ).returncode  # fmt: skip
    said, complained = out.read_text(errors="replace"), err.read_text(errors="replace")
    expect(status == 0, f"status {status}: {complained[-300:]} {said[-300:]}; {wire()}")
    return said


def wire() -> str:
    """What went by, in short, for the message of a failure."""
    return "; ".join(
        f"{p.method} {p.path} {p.status}" + (f" {p.answer[:200]}" if p.status >= 400 else "")
        for p in relay.passed
    )


def well_answered(path: str) -> None:
    """Every request to `path` was answered, and there was one."""
    asked = [p for p in relay.passed if p.path.endswith(path)]
    expect(asked and all(p.status == 200 for p in asked), wire())


def exercise(ask: Callable[[str], str], *, path: str, tool: str) -> None:
    """The two checks of every agent. `ask` runs it with a prompt and returns its final words;
    `path` is the route it has to use, `tool` the harmless tool it is brought to call."""
    prepare()

    @check("one prompt, headless")
    def one() -> None:
        relay.passed.clear()
        answer = ask(FRANCE)
        well_answered(path)
        expect(answer.strip(), f"no final words; {wire()}")
        expect("Paris" in answer, answer[-300:])

    @check(f"tool {tool}: called, run, its result sent back")
    def with_tool() -> None:
        relay.passed.clear()
        relay.force = tool
        answer = ask(READ)
        well_answered(path)
        expect(any(p.forced for p in relay.passed), f"{tool} was not offered; {wire()}")
        back = [p for p in relay.passed if p.has_result]
        expect(back, f"no result came back; {wire()}; {relay.passed[-1].answer[-400:]}")
        expect("reused=" in back[-1].cache and "reused=0" not in back[-1].cache, back[-1].cache)
        expect(answer.strip(), f"no final words; {wire()}")

    if relay.refused:
        print("note: it also tried to reach " + ", ".join(sorted(relay.refused)), flush=True)


__all__ = ["HOME", "KEY", "MODEL", "NOTE", "WORK", "call", "exercise", "prepare", "relay", "wire"]
