"""Makes the traces in the folder traces: `python -m server.bench.trace_maker [FOLDER]`.

Knows what people and agents say to a model that answers capitals, sums and weather questions (the
embedded demo can; another model answers something). The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from server.bench.trace import FOLDER, FORMAT

SEED = 20261124
TURNS = 30
CITIES = (
    *("Paris", "Berlin", "Rome", "Madrid", "Lisbon", "Vienna", "Warsaw", "Prague", "Athens"),
    *("Oslo", "Stockholm", "Helsinki", "Dublin", "Brussels", "Budapest", "Bern", "Copenhagen"),
    *("Cairo", "Tokyo", "Lima"),
)
COUNTRIES = (
    *("France", "Germany", "Italy", "Spain", "Portugal", "Austria", "Poland", "Greece", "Norway"),
    *("Sweden", "Finland", "Ireland", "Belgium", "Hungary", "Switzerland", "Denmark", "Egypt"),
    *("Japan", "Peru", "Canada"),
)
THINGS = ("blue river stone", "old mill house", "red apple tree", "quiet market town", "green gate")
SYSTEM = "You are a helpful assistant. Be concise."
AGENT = "You are a helpful assistant with tools. Call a tool when it helps, then answer shortly."
Entry = dict[str, Any]


def _tool(name: str, about: str, **parameters: str) -> Entry:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": about,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(parameters),
            },
        },
    }


TOOLS = [
    _tool("get_weather", "Current weather of a city", city="Name of the city"),
    _tool("list_files", "Files of a folder", path="Path of the folder"),
    _tool("read_file", "Text of a file", path="Path of the file", lines="Which lines, as 1-80"),
]


def question(draw: random.Random) -> str:
    """Something the demo can answer in a few words."""
    a, b = draw.randint(2, 60), draw.randint(2, 39)
    low = draw.randint(1, 9)
    return draw.choice(
        (
            f"What is the capital of {draw.choice(COUNTRIES)}?",
            f"{a} + {b}?",
            f"What is {a} plus {b}?",
            f"Count from {low} to {low + draw.randint(3, 7)}.",
            f"Repeat: {draw.choice(THINGS)}",
            f"Give the capital of {draw.choice(COUNTRIES)} as JSON.",
            f"Please think carefully: what is the capital of {draw.choice(COUNTRIES)}?",
        )
    )


def _chat(draw: random.Random, count: int = TURNS) -> list[Entry]:
    first = {"user": f"Hello, my name is Anna, number {draw.randint(100, 999)}."}
    return [first, *({"user": question(draw)} for _ in range(count - 1))]


def _weather(draw: random.Random) -> str:
    return json.dumps(
        {
            "temperature": draw.randint(-9, 34),
            "unit": "C",
            "wind": f"{draw.randint(1, 60)} km/h",
            "sky": draw.choice(("clear", "cloudy", "rain", "snow")),
        }
    )


def _file_text(draw: random.Random) -> str:
    lines = [
        f"{number:4} {draw.choice(('value', 'total', 'count', 'limit'))}_{draw.randint(1, 99)} = "
        f"{draw.choice(('read', 'sum', 'next', 'open'))}({draw.randint(1, 999)})"
        for number in range(1, draw.randint(6, 30))
    ]
    return "\n".join(lines)


def _tool_turns(draw: random.Random, questions: int) -> list[Entry]:
    turns: list[Entry] = []
    for _ in range(questions):
        city = draw.choice(CITIES)
        turns.append({"user": f"How warm is it in {city}?"})
        scripted = [{"name": "get_weather", "arguments": {"city": city}}]
        turns.append({"results": [_weather(draw)], "calls": scripted})
    return turns


def _agent_turns(draw: random.Random, rounds: int) -> list[Entry]:
    turns: list[Entry] = [{"user": "Find out why the sum in src/ is wrong. Read what you need."}]
    for number in range(rounds):
        path = f"src/part_{draw.randint(1, 40)}.py"
        call: Entry = {"name": "read_file", "arguments": {"path": path, "lines": "1-80"}}
        if number % 5 == 0:
            call = {"name": "list_files", "arguments": {"path": "src/"}}
        turns.append({"results": [_file_text(draw)], "calls": [call]})
    return turns


def _edits(draw: random.Random) -> list[Entry]:
    turns = _chat(draw)
    for place in (10, 22):
        turns[place] = {"edit": 1, "user": f"Sorry, I meant: {question(draw)}"}
    return turns


def _regenerated(draw: random.Random) -> list[Entry]:
    turns = _chat(draw)
    for place in (6, 13, 14, 20, 27):
        turns[place] = {"regenerate": True}
    return turns


def _branches(draw: random.Random) -> list[Entry]:
    turns = _chat(draw, 12)
    turns.append({"branch": 6, "line": "second", "user": f"Instead: {question(draw)}"})
    turns.append({"branch": 3, "line": "third", "user": f"Or rather: {question(draw)}"})
    for number in range(TURNS - len(turns)):
        line = ("main", "second", "third")[number % 3]
        turns.append({"line": line, "user": question(draw)})
    return turns


def _interleaved(draw: random.Random) -> list[Entry]:
    turns = _chat(draw)
    turns[0] = {"user": "Hello, my name is {who}."}
    return turns


def _long(words: int, seed: int, then: str = f"\n\n{SYSTEM}") -> Entry:
    return {"words": words, "seed": seed, "then": then}


def traces() -> dict[str, Entry]:
    """Every trace by name, as it is written."""
    recipes: Mapping[str, tuple[str, Callable[[random.Random], Sequence[Entry]], Entry]] = {
        "chat_plain": ("a chat without thinking", _chat, {"thinking": False, "pause_s": 0.3}),
        "chat_stripped": ("a chat; the client strips the thoughts", _chat, {"pause_s": 0.3}),
        "chat_echoed": (
            "a chat; the client sends the thoughts back and the template keeps them",
            _chat,
            {"echo": True, "preserve": True, "pause_s": 0.3},
        ),
        "tool_loop": (
            "15 questions, each answered by way of a tool call",
            lambda draw: _tool_turns(draw, TURNS // 2),
            {"tools": TOOLS[:1], "system": AGENT, "echo": True, "pause_s": 0.05},
        ),
        "tool_loop_stripped": (
            "the same with thoughts stripped",
            lambda draw: _tool_turns(draw, TURNS // 2),
            {"tools": TOOLS[:1], "system": AGENT, "pause_s": 0.05},
        ),
        "tool_agent": (
            "one task and 30 rounds of tool calls; calls are scripted where the model makes none",
            lambda draw: _agent_turns(draw, TURNS),
            {"tools": TOOLS, "system": AGENT, "echo": True, "max_tokens": 64, "pause_s": 0.05},
        ),
        "long_system": (
            "a chat behind a system prompt of more than 10,000 tokens",
            _chat,
            {"system": _long(10_000, 7), "pause_s": 0.3},
        ),
        "sessions_12": (
            "12 chats in turns, behind the same system prompt",
            _interleaved,
            {"sessions": 12, "pause_s": 0.02},
        ),
        "sessions_64": (
            "64 chats in turns, behind the same system prompt",
            _interleaved,
            {"sessions": 64, "pause_s": 0.02},
        ),
        "edit": (
            "the second user message is edited twice in the middle of a chat",
            _edits,
            {"system": _long(600, 8), "pause_s": 0.3},
        ),
        "regenerate": ("five answers are asked for again", _regenerated, {"pause_s": 0.3}),
        "branch": (
            "a chat and two branches of it go on in turns",
            _branches,
            {"pause_s": 0.3},
        ),
    }
    made: dict[str, Entry] = {}
    for name, (about, turns, more) in recipes.items():
        draw = random.Random(f"{SEED} {name.removesuffix('_stripped')}")
        head = {"format": FORMAT, "name": name, "about": about, "seed": SEED, "system": SYSTEM}
        made[name] = {**head, **more, "turns": list(turns(draw))}
    return made


def text_of(trace: Entry) -> str:
    """The file's text: one turn a line."""
    head = {key: value for key, value in trace.items() if key != "turns"}
    opening = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    turns = ",\n  ".join(json.dumps(turn, ensure_ascii=False) for turn in trace["turns"])
    return f'{opening},\n "turns": [\n  {turns}\n ]\n}}\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Writes all traces into the folder given, else where they are kept."""
    given = list(sys.argv[1:] if argv is None else argv)
    folder = Path(given[0]) if given else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, trace in traces().items():
        (folder / f"{name}.json").write_text(text_of(trace), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
