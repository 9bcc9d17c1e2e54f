"""The terminal chat, run as a program against a scripted server: pipes, a terminal, Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import pytest

from server.chat import main
from tests.server.scripted_server import Script, chunk, serving, whole_answer

Chat = Callable[..., "Outcome"]
COMMAND = [sys.executable, "-m", "server", "chat"]
LIMIT_S = 30.0  # how long a busy machine may take for one thing


@dataclass(frozen=True)
class Outcome:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chat:
    """Runs the command in this process on piped lines."""
    monkeypatch.delenv("MXSERVE_API_KEY", raising=False)

    def run(url: str, lines: str, *flags: str) -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        status = main(["--url", url, *flags])
        shown = capsys.readouterr()
        return Outcome(status, shown.out, shown.err)

    return run


def echo(body: dict[str, Any]) -> Iterator[str]:
    return whole_answer(f"You said {body['messages'][-1]['content']}.", thought="Hm.")


def test_piped_lines_are_answered_with_the_history(chat: Chat) -> None:
    script = Script(echo)
    with serving(script) as url:
        done = chat(url, "one\ntwo\n", "--system", "Be kind.", "--effort", "low")
    assert done.returncode == 0, done.stderr
    assert "You said one." in done.stdout
    assert "You said two." in done.stdout
    assert "\x1b" not in done.stdout
    assert script.bodies[1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "You said one.", "reasoning_content": "Hm."},
        {"role": "user", "content": "two"},
    ]
    assert script.bodies[1]["reasoning_effort"] == "low"
    assert script.bodies[1]["model"] == "scripted"


def test_commands_change_effort_and_forget(chat: Chat) -> None:
    script = Script(echo)
    lines = "one\n/effort none\n/effort wild\n/reset\n/nonsense\ntwo\n/quit\nthree\n"
    with serving(script) as url:
        done = chat(url, lines)
    assert "reasoning_effort" not in script.bodies[0]
    assert [body["messages"][-1]["content"] for body in script.bodies] == ["one", "two"]
    assert script.bodies[1]["reasoning_effort"] == "none"
    assert len(script.bodies[1]["messages"]) == 1
    assert "There is no command /nonsense" in done.stderr
    assert "Effort is one of none, minimal" in done.stderr
    assert done.returncode == 0


def test_the_key_is_sent_from_the_environment(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXSERVE_API_KEY", "secret")
    script = Script(echo)
    with serving(script) as url:
        chat(url, "one\n")
    assert script.headers[0]["Authorization"] == "Bearer secret"


def test_no_server_is_said_clearly(chat: Chat) -> None:
    done = chat("http://127.0.0.1:9", "hello\n")
    assert done.returncode == 1
    assert "No server answers at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def refusal(_: dict[str, Any]) -> Iterator[str]:
    yield json.dumps({"error": {"message": "maximum context length is 8 tokens", "code": "x"}})


def error_frame(_: dict[str, Any]) -> Iterator[str]:
    yield chunk({"content": "Wel"})
    yield 'data: {"error": {"message": "the step failed"}}\n\n'


def bare_cut(_: dict[str, Any]) -> Iterator[str]:
    yield chunk({"content": "Wel"})


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (refusal, 400, "maximum context length is 8 tokens"),
        (refusal, 401, "set MXSERVE_API_KEY"),
        (error_frame, 200, "the step failed"),
        (bare_cut, 200, "closed before the answer was complete"),
    ],
)
def test_an_error_is_shown_and_the_chat_goes_on(
    chat: Chat, answer: Any, status: int, expected: str
) -> None:
    script = Script(answer, status=status)
    with serving(script) as url:
        done = chat(url, "one\ntwo\n")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(script.bodies) == 2
    assert done.returncode == 1


def test_a_refused_question_is_not_kept(chat: Chat) -> None:
    script = Script(refusal, status=400)
    with serving(script) as url:
        chat(url, "one\ntwo\n")
    assert [m["content"] for m in script.bodies[1]["messages"]] == ["two"]


def test_control_characters_do_not_reach_the_terminal(chat: Chat) -> None:
    script = Script(lambda _: whole_answer("a\x1b[2Jb\x07\x9bc\td"))
    with serving(script) as url:
        assert "a[2Jbc\td" in chat(url, "one\n").stdout


class Terminal:
    """The chat on a pseudo-terminal."""

    def __init__(self, command: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, pattern: str) -> None:
        """Reads until `pattern` is there; what came up to it is taken away."""
        deadline = time.monotonic() + LIMIT_S
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.seen += os.read(self._master, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]

    def ended(self) -> int:
        """Waits for the program to end; returns its exit status."""
        return self._process.wait(LIMIT_S)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


OpenTerminal = Callable[[Sequence[str]], Terminal]


@pytest.fixture
def open_terminal() -> Iterator[OpenTerminal]:
    """Opens terminals; whatever a test does, none outlives it."""
    with ExitStack() as opened:
        yield lambda command: opened.enter_context(closing(Terminal(command)))


def test_ctrl_c_works_where_the_shell_had_it_ignored(open_terminal: OpenTerminal) -> None:
    script = Script(lambda _: whole_answer("x" * 2000, gap_s=0.02))
    with serving(script) as url:
        ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]
        terminal = open_terminal([*ignoring, *COMMAND, "--url", url])
        terminal.wait_for("> ")
        terminal.type("long\n")
        terminal.wait_for("xxx")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped\)")
        terminal.wait_for("> ")
        terminal.type("/quit\n")
        assert terminal.ended() == 0


def test_a_terminal_shows_thoughts_dimmed_and_ctrl_c_stops_only_the_answer(
    open_terminal: OpenTerminal,
) -> None:
    def answer(body: dict[str, Any]) -> Iterator[str]:
        if body["messages"][-1]["content"] == "long":
            return whole_answer("x" * 2000, gap_s=0.02)
        return whole_answer("Fine.", thought="Thinking.", cached=60)

    script = Script(answer)
    with serving(script) as url:
        terminal = open_terminal([*COMMAND, "--url", url])
        terminal.wait_for("scripted - /help")
        terminal.wait_for("> ")
        terminal.type("hello\n")
        terminal.wait_for(r"\x1b\[2mThinking\.\s+\x1b\[0mFine\.")
        terminal.wait_for("60 of 100 prompt tokens were cached")
        terminal.wait_for("> ")
        terminal.type("long\n")
        terminal.wait_for("xxxxx")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped\)")
        assert script.hung_up.wait(10)
        terminal.wait_for("> ")
        terminal.interrupt()
        terminal.wait_for("/quit or Ctrl-D")
        terminal.type("again\n")
        terminal.wait_for(r"Fine\.")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0
    stopped = script.bodies[2]["messages"][-2]
    assert stopped["role"] == "assistant"
    assert set(stopped["content"]) == {"x"}


def test_ctrl_c_at_the_prompt_is_heard_each_time(open_terminal: OpenTerminal) -> None:
    with serving(Script(echo)) as url:
        terminal = open_terminal([*COMMAND, "--url", url])
        for _ in range(40):
            terminal.wait_for("> ")
            terminal.interrupt()
            terminal.wait_for("/quit or Ctrl-D")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0


# The signal is handled by another thread, so that it interrupts no call of the main one: what
# happens, rarely, to one that comes just before the call.
UNNOTICED = """
import asyncio, signal, threading, readline
from server.ctrl_c import ctrl_c_heard
def unnoticed():
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
with ctrl_c_heard():
    threading.Timer(1.0, unnoticed).start()
    try:
        {blocked}
    except KeyboardInterrupt:
        print("heard", flush=True)
"""


@pytest.mark.parametrize("blocked", ["input('> ')", "asyncio.run(asyncio.sleep(600))"])
def test_a_signal_that_no_call_noticed_is_heard(open_terminal: OpenTerminal, blocked: str) -> None:
    terminal = open_terminal([sys.executable, "-c", UNNOTICED.format(blocked=blocked)])
    terminal.wait_for("heard")
    assert terminal.ended() == 0
