"""Traces: the files are what the maker makes, and turns change a history as clients do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.bench import trace, trace_maker
from server.bench.client import BenchError
from server.bench.command import DEMO
from server.bench.conversation import Answer, Conversation
from server.bench.ideal import PromptText
from server.bench.trace import Turn


def test_the_committed_files_are_what_the_maker_makes(tmp_path: Path) -> None:
    assert trace_maker.main([str(tmp_path)]) == 0
    made = {path.stem: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert made == {name: path.read_bytes() for name, path in trace.builtin().items()}
    assert sum(map(len, made.values())) < 200_000


@pytest.mark.parametrize("name", list(trace.builtin()))
def test_every_trace_has_thirty_turns_of_each_session(name: str) -> None:
    one = trace.find(name)
    assert one.name == name
    assert len(one.turns) >= 30
    steps = one.steps()
    assert len(steps) == one.sessions * len(one.turns)
    openings = {step.what.text for step in steps[: one.sessions]}
    assert len(openings) == one.sessions
    assert len(one.steps(2)) == 2 * one.sessions


def test_sessions_take_turns() -> None:
    one = trace.find("sessions_12")
    assert [step.session for step in one.steps()[:25]] == [*range(12), *range(12), 0]


def test_the_long_system_prompt_is_long() -> None:
    one = trace.find("long_system")
    messages = [{"role": "system", "content": one.system}, {"role": "user", "content": "x"}]
    tokens = PromptText(DEMO).prompt(messages, [], thinking=True, keep=False)
    assert len(tokens) > 10_000
    assert len(one.system.split()) >= 10_000  # so that it is for any tokenizer


HEAD = {"format": trace.FORMAT, "name": "n", "about": "a"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("[]", "not a trace"),
        ("{", "not a trace"),
        ({"format": "other"}, "format"),
        ({**HEAD, "turns": []}, "no turns"),
        ({**HEAD, "turns": [{"user": "x"}], "sessions": 0}, "no sessions"),
        ({**HEAD, "turns": [{"say": "x"}]}, "turn 0 is none of"),
        ({**HEAD, "turns": [{"regenerate": True}]}, "nothing was said"),
        ({**HEAD, "turns": [{"user": "x"}, {"edit": 1, "user": "y"}]}, "turn 1"),
        ({**HEAD, "turns": [{"user": "x", "line": "b"}]}, "line 'b'"),
        ({**HEAD, "turns": [{"user": "x"}, {"results": []}]}, "no results"),
    ],
)
def test_what_is_no_trace_is_told(document: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(BenchError, match=said):
        trace.find(str(file))
    with pytest.raises(BenchError, match="there is no trace"):
        trace.find("nowhere")


def conversation(**more: Any) -> Conversation:
    turns = [{"user": "x"}]
    return Conversation(trace.parse({**HEAD, "system": "S", "turns": turns, **more}))


def say(session: Conversation, turn: Turn, content: str, **more: Any) -> list[dict[str, Any]]:
    messages = session.prepare(turn)
    answer = Answer(content, more.get("reasoning", "hm"), more.get("calls", ()), complete=True)
    session.commit(turn, messages, answer)
    return messages


def texts(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


def test_edit_regenerate_and_branch_change_the_history_as_clients_do() -> None:
    session = conversation()
    say(session, Turn("user", "q1"), "a1")
    say(session, Turn("user", "q2"), "a2")
    assert texts(say(session, Turn("regenerate"), "b2")) == ["S", "q1", "a1", "q2"]
    assert texts(session.prepare(Turn("user", "q3"))) == ["S", "q1", "a1", "q2", "b2", "q3"]
    branch = Turn("branch", "other", at=1, line="two")
    assert texts(say(session, branch, "c2")) == ["S", "q1", "a1", "other"]
    assert texts(say(session, Turn("edit", "q2'", at=1), "d2")) == ["S", "q1", "a1", "q2'"]
    assert texts(session.prepare(Turn("user", "z", line="two")))[-3:] == ["other", "c2", "z"]
    assert texts(session.prepare(Turn("user", "z")))[-3:] == ["q2'", "d2", "z"]


def test_a_turn_that_was_not_answered_leaves_no_trace() -> None:
    session = conversation()
    with pytest.raises(LookupError):
        session.prepare(Turn("regenerate"))
    session.prepare(Turn("user", "lost"))
    assert texts(session.prepare(Turn("user", "q1"))) == ["S", "q1"]
    with pytest.raises(LookupError):
        session.prepare(Turn("results", results=("1",)))


def test_results_answer_each_call_and_calls_are_scripted_where_there_are_none() -> None:
    session = conversation()
    calls = [
        {"id": name, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for name in ("one", "two", "three")
    ]
    say(session, Turn("user", "q"), "", calls=calls)
    scripted = ({"name": "g", "arguments": {"x": 1}},)
    turn = Turn("results", results=("r1", "r2"), calls=scripted)
    messages = say(session, turn, "no call")
    assert [m["tool_call_id"] for m in messages[-3:]] == ["one", "two", "three"]
    assert texts(messages[-3:]) == ["r1", "r2", "r1"]
    again = session.prepare(turn)
    assert again[-2]["tool_calls"][0]["function"] == {"name": "g", "arguments": '{"x": 1}'}
    assert again[-1]["tool_call_id"] == again[-2]["tool_calls"][0]["id"]


@pytest.mark.parametrize("echo", [True, False])
def test_thoughts_are_kept_but_only_sent_back_by_clients_that_echo_them(echo: bool) -> None:
    session = conversation(echo=echo)
    say(session, Turn("user", "q"), "a", reasoning="deep")
    messages = session.prepare(Turn("user", "r"))
    assert messages[2]["reasoning_content"] == "deep"
    assert ("reasoning_content" in session.as_sent(messages)[2]) is echo
