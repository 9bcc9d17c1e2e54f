"""Grammars of the demo's vocabulary, and what tests ask of them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np

from model.loading import DEMO_FOLDER
from model.tokenizer import Tokenizer
from server.output.constraint import Constraint
from server.output.events import ToolCallArguments, ToolCallStart
from server.output.grammars import Grammars
from server.output.parser import OutputParser

TOKENIZER = Tokenizer.from_folder(DEMO_FOLDER)
EOS, START, END, THINK = (
    TOKENIZER.token_id(text) or 0
    for text in ("<|im_end|>", "<tool_call>", "</tool_call>", "</think>")
)
OTHER_END = TOKENIZER.token_id("<|endoftext|>") or 0
GRAMMARS = Grammars(
    (DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"),
    vocab_size=2100,
    eos=EOS,
    ends=(EOS, OTHER_END),
    think_end=THINK,
    call_start=START,
    call_end=END,
)


def allowed(constraint: Constraint) -> list[int]:
    mask = constraint.mask()
    assert constraint.failure is None, constraint.failure
    assert mask is not None
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return [int(i) for i in np.flatnonzero(bits)]


def written(tokens: list[int]) -> str:
    return TOKENIZER.decode(tokens)


def calls_in(text: str, offered: list[dict[str, Any]]) -> list[tuple[str, str]]:
    parser = OutputParser(thinking=False, tools=offered)
    calls: list[list[str]] = []
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, ToolCallStart):
            calls.append([event.name, ""])
        elif isinstance(event, ToolCallArguments):
            calls[event.index][1] += event.text
    return [(name, arguments) for name, arguments in calls]


def assert_fits(name: str, arguments: str, offered: list[dict[str, Any]]) -> None:
    schema = next(t["function"]["parameters"] for t in offered if t["function"]["name"] == name)
    jsonschema.validate(json.loads(arguments), schema)


def spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    lines = "".join(
        f"<parameter={key}>\n{spelled(value)}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"\n<function={name}>\n{lines}</function>\n"


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether `<tool_call>`, `text` and `</tool_call>` may be written."""
    for token in [START, *TOKENIZER.encode(text), END]:
        mask = constraint.mask()
        assert constraint.failure is None
        if mask is not None and not mask.view(np.uint32)[token // 32] >> (token % 32) & 1:
            return False
        constraint.accept(token)
    return True


def follow(constraint: Constraint, *parts: str | int) -> None:
    for part in parts:
        for token in [part] if isinstance(part, int) else TOKENIZER.encode(part):
            mask = constraint.mask()
            legal = mask is None or mask.view(np.uint32)[token // 32] >> (token % 32) & 1
            assert legal, f"{part!r} at {TOKENIZER.decode([token])!r}"
            constraint.accept(token)
    assert constraint.failure is None


def answers(constraint: Constraint, text: str) -> bool:
    """Whether `text` may be the whole answer."""
    for token in [*TOKENIZER.encode(text), EOS]:
        mask = constraint.mask()
        assert constraint.failure is None, constraint.failure
        if mask is not None and not mask.view(np.uint32)[token // 32] >> (token % 32) & 1:
            return False
        constraint.accept(token)
    return True


def tool(parameters: Any, *, name: str = "f", strict: bool = False) -> dict[str, Any]:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": function}
