"""One session of a replay: the history its client keeps, and how a turn of a trace changes it.

Knows messages on the wire and what clients do to them. Nothing of HTTP, tokens or measuring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.bench.trace import MAIN, Trace, Turn

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. `calls`: the tool calls as they came; `complete`: it ended by itself."""

    content: str
    reasoning: str
    calls: Sequence[Mapping[str, Any]]
    complete: bool

    def message(self) -> Message:
        """The assistant message, thoughts included."""
        message: Message = {"role": "assistant", "content": self.content}
        message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = [dict(call) for call in self.calls]
        return message


@dataclass(slots=True)
class Conversation:
    """The lines of one session's history; `main` exists from the start, branches add others.

    Messages are kept with the thoughts of the answers, whether or not the client sends them back.
    """

    trace: Trace
    _lines: dict[str, list[Message]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        system = self.trace.system
        self._lines[MAIN] = [{"role": "system", "content": system}] if system else []

    def prepare(self, turn: Turn) -> list[Message]:
        """The messages to send for `turn`; nothing is changed until `commit`. Raises LookupError
        when an earlier request failed and what the turn builds on is missing."""
        line = self._lines[MAIN if turn.kind == "branch" else turn.line]
        if turn.kind == "regenerate":
            if line[-1]["role"] != "assistant":
                raise LookupError("there is no answer to ask for again")
            return line[:-1]
        if turn.kind in ("edit", "branch"):
            places = [i for i, message in enumerate(line) if message["role"] == "user"]
            line = line[: places[turn.at]]
        if turn.kind == "results":
            return _with_results(line, turn)
        return [*line, {"role": "user", "content": turn.text}]

    def commit(self, turn: Turn, messages: Sequence[Message], answer: Answer) -> None:
        """`messages` were answered: they and the answer are the line's history now."""
        self._lines[turn.line] = [*messages, answer.message()]

    def as_sent(self, messages: Sequence[Message]) -> list[Message]:
        """`messages` as this client sends them: without the thoughts where it strips them."""
        if self.trace.echo:
            return list(messages)
        return [
            {key: value for key, value in message.items() if key != "reasoning_content"}
            for message in messages
        ]


def _with_results(line: Sequence[Message], turn: Turn) -> list[Message]:
    if not line or line[-1]["role"] != "assistant":
        raise LookupError("there is no answer whose calls have results")
    last = line[-1]
    if not last.get("tool_calls"):
        last = {"role": "assistant", "content": "", "tool_calls": _scripted(turn, len(line))}
    results = [
        {
            "role": "tool",
            "tool_call_id": call.get("id", f"call_{number}"),
            "content": turn.results[number % len(turn.results)],
        }
        for number, call in enumerate(last["tool_calls"])
    ]
    return [*line[:-1], last, *results]


def _scripted(turn: Turn, place: int) -> list[Message]:
    if not turn.calls:
        raise LookupError("the answer called no tool and the trace has no call for it")
    return [
        {
            "id": f"call_{place}_{number}",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["arguments"])},
        }
        for number, call in enumerate(turn.calls)
    ]
