"""`mxserve chat`: a conversation in a terminal, with a server or with a model in this process.

Knows people: prompts, colours, commands, Ctrl-C, and what is kept of a conversation. Nothing of
where the answers come from (`chat_sources.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from server.chat_sources import (
    EFFORTS,
    ChatError,
    End,
    EngineSource,
    Piece,
    ServerSource,
    Source,
)
from server.ctrl_c import ctrl_c_heard
from server.keys import clients_key

HELP = """/effort LEVEL   how much to think: none, minimal, low, medium, high, xhigh, max
/reset          forget the conversation
/quit           leave (or Ctrl-D); Ctrl-C stops an answer"""
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(slots=True)
class Conversation:
    """What has been said. An answer that was stopped stays as far as it came."""

    system: str | None = None
    effort: str | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)

    def messages(self) -> list[dict[str, Any]]:
        """All of it, in the wire's form."""
        return [*([{"role": "system", "content": self.system}] if self.system else []), *self.turns]

    def ask(self, text: str) -> None:
        """Adds the person's words."""
        self.turns.append({"role": "user", "content": text})

    def settle(self, pieces: Sequence[Piece]) -> None:
        """Adds the answer, or takes the question back when nothing came."""
        content = "".join(p.text for p in pieces if not p.thought)
        thoughts = "".join(p.text for p in pieces if p.thought)
        if not content:
            self.turns.pop()
            return
        answer = {"role": "assistant", "content": content}
        if thoughts:
            answer["reasoning_content"] = thoughts
        self.turns.append(answer)


class Screen:
    """What the person sees. Colours and prompts only on a terminal."""

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty()
        self._colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._dimmed = False

    def show(self, piece: Piece, *, after_thought: bool) -> None:
        """Writes a piece at once; thoughts are dimmed."""
        if after_thought and not piece.thought:
            self._write("\n\n")
        self._dim(piece.thought)
        self._write(_printable(piece.text))

    def end_answer(self, note: str = "") -> None:
        """Closes an answer, with a dimmed note behind it."""
        self._dim(True)
        self._write(f"\n{note}" if note else "")
        self._dim(False)
        self._write("\n")

    def say(self, text: str) -> None:
        """A line of the program's own, not part of any answer."""
        self._dim(False)
        print(text, file=sys.stderr, flush=True)

    def _dim(self, on: bool) -> None:
        if self._colours and on != self._dimmed:
            self._write(DIM if on else PLAIN)
        self._dimmed = on

    @staticmethod
    def _write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _printable(text: str) -> str:
    """Without control characters: a model's words must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160))


class Chat:
    """The loop: read a line, answer it, until the end of input."""

    def __init__(self, source: Source, conversation: Conversation, screen: Screen) -> None:
        self._source = source
        self._conversation = conversation
        self._screen = screen
        self._failed = False

    def run(self) -> int:
        """Until the person leaves. Returns the exit status: 1 when something failed in a script."""
        heard = ctrl_c_heard() if self._screen.interactive else contextlib.nullcontext()
        with heard, asyncio.Runner() as runner:
            try:
                name = runner.run(self._source.open())
            except ChatError as error:
                self._screen.say(f"mxserve chat: {error}")
                return 1
            except KeyboardInterrupt:
                return 130
            try:
                self._greet(name)
                while self._turn_unless_interrupted(runner):
                    pass
            finally:
                runner.run(self._source.close())
        return int(self._failed and not self._screen.interactive)

    def _greet(self, name: str) -> None:
        if self._screen.interactive:
            self._screen.say(f"{name} - /help for commands, Ctrl-D to leave")

    def _turn_unless_interrupted(self, runner: asyncio.Runner) -> bool:
        """A turn; Ctrl-C at the prompt, or too late to stop the answer, leaves the chat open."""
        try:
            return self._turn(runner)
        except KeyboardInterrupt:
            self._screen.say("\n/quit or Ctrl-D to leave")
            return True

    def _turn(self, runner: asyncio.Runner) -> bool:
        """One line of input. False when the person leaves."""
        try:
            line = input("> " if self._screen.interactive else "").strip()
        except EOFError:
            return False
        if line.startswith("/"):
            return self._command(line)
        if line:
            self._answer(runner, line)
        return True

    def _command(self, line: str) -> bool:
        name, _, value = line.partition(" ")
        value = value.strip()
        match name:
            case "/quit" | "/exit":
                return False
            case "/reset":
                self._conversation.turns.clear()
                self._screen.say("The conversation is forgotten.")
            case "/effort" if value in EFFORTS:
                self._conversation.effort = value
                self._screen.say(f"Effort is now {value}.")
            case "/effort":
                self._screen.say(f"Effort is one of {', '.join(EFFORTS)}.")
            case "/help":
                self._screen.say(HELP)
            case _:
                self._screen.say(f"There is no command {name}; /help lists them.")
        return True

    def _answer(self, runner: asyncio.Runner, text: str) -> None:
        pieces: list[Piece] = []
        self._conversation.ask(text)
        try:
            # Ctrl-C cancels the task that runs here, which closes the connection or the stream.
            note = runner.run(self._stream(pieces))
        except KeyboardInterrupt:
            self._screen.end_answer("(stopped)")
        except ChatError as error:
            self._screen.end_answer()
            self._screen.say(f"error: {error}")
            self._failed = True
        else:
            self._screen.end_answer(note)
        finally:
            self._conversation.settle(pieces)

    async def _stream(self, pieces: list[Piece]) -> str:
        """Shows one answer and collects it. Returns the note to put behind it."""
        conversation, note = self._conversation, ""
        answer = self._source.answer(conversation.messages(), conversation.effort)
        async with aclosing(answer) as events:
            async for event in events:
                if isinstance(event, End):
                    note = self._note(event)
                    continue
                self._screen.show(event, after_thought=bool(pieces) and pieces[-1].thought)
                pieces.append(event)
        return note

    def _note(self, end: End) -> str:
        cut = "(cut: the context or the token limit is reached) " if end.reason == "length" else ""
        if not self._screen.interactive:
            return cut
        return (
            f"{cut}{end.completion_tokens} tokens; "
            f"{end.cached_tokens} of {end.prompt_tokens} prompt tokens were cached"
        )


def parser() -> argparse.ArgumentParser:
    """The command line of `mxserve chat`."""
    arguments = argparse.ArgumentParser(
        prog="mxserve chat",
        description="A terminal chat. MXSERVE_API_KEY is sent when the server wants a key.",
        epilog=f"Commands:\n{HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = arguments.add_mutually_exclusive_group()
    where.add_argument("--url", default="http://127.0.0.1:8080", help="default: %(default)s")
    where.add_argument(
        "--model", help="chat in this process, without a server: a folder, a hub id, or 'demo'"
    )
    arguments.add_argument("--effort", choices=EFFORTS, help="how much to think")
    arguments.add_argument("--system", help="a system message")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    source: Source
    if options.model:
        source = EngineSource(None if options.model == "demo" else options.model)
    else:
        source = ServerSource(options.url, clients_key())
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives input() a history and line editing
    status = Chat(source, Conversation(options.system, options.effort), Screen()).run()
    if options.model:
        from server.cli import leave

        leave(status)
    return status
