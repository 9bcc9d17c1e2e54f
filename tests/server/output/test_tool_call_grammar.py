"""Tool calls under their grammar: what may be written is a call that fits its tool's schema."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.loading import DEMO_FOLDER
from model.tokenizer import Tokenizer
from server.output.constraint import Constraint, OutputRules
from server.output.events import ToolCallArguments, ToolCallStart
from server.output.grammars import GrammarError, Grammars
from server.output.parser import OutputParser

TOKENIZER = Tokenizer.from_folder(DEMO_FOLDER)
EOS, START, END, THINK = (
    TOKENIZER.token_id(text) or 0
    for text in ("<|im_end|>", "<tool_call>", "</tool_call>", "</think>")
)
GRAMMARS = Grammars(
    (DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"),
    vocab_size=2100,
    eos=EOS,
    think_end=THINK,
    call_start=START,
    call_end=END,
)

names = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
strings = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 1, "maxLength": 6},
        {"type": "string", "pattern": "^[a-c]{2,4}$"},
        {"type": "string", "pattern": "x+"},
        {"type": "string", "format": "date"},
        {"enum": ["red", "green", "</parameter>", "a\nb"]},
        {"const": "07"},
    ]
)
others = st.sampled_from(
    [
        {"type": "integer", "minimum": -3, "maximum": 40},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        {
            "type": "object",
            "properties": {"a": {"type": "string", "maxLength": 4}, "b": {"type": "boolean"}},
            "required": ["a"],
            "additionalProperties": False,
        },
        {"$ref": "#/$defs/point"},
        {"type": ["integer", "null"]},
        {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]},
        {"enum": [1, 2, None]},
        {"type": ["string", "null"]},
    ]
)
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}


@st.composite
def tools(draw: st.DrawFn) -> list[dict[str, Any]]:
    made = []
    for name in draw(st.lists(names, min_size=1, max_size=3, unique=True)):
        properties = draw(st.dictionaries(names, st.one_of(strings, others), max_size=4))
        required = (
            draw(st.lists(st.sampled_from(sorted(properties)), unique=True)) if properties else []
        )
        parameters = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
            "$defs": {"point": POINT},
        }
        function = {"name": name, "parameters": parameters, "strict": draw(st.booleans())}
        made.append({"type": "function", "function": function})
    return made


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


def wander(constraint: Constraint, draw: random.Random, most: int) -> list[int]:
    """Some allowed way from here to the end of the answer, short ways liked better."""
    tokens: list[int] = []
    for _ in range(most):
        choice = allowed(constraint)
        if EOS in choice:
            return tokens
        # Tokens that close what is open come soon, so that a walk ends.
        closing = [
            t for t in choice if TOKENIZER.token_bytes(t)[:1] in (b"\n", b"<", b"]", b"}", b'"')
        ]
        token = draw.choice(closing if closing and draw.random() < 0.6 else choice)
        constraint.accept(token)
        tokens.append(token)
    return []


@given(offered=tools(), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_whatever_the_mask_allows_is_a_call_that_fits(
    offered: list[dict[str, Any]], seed: int
) -> None:
    rules = OutputRules(False, True, tools=offered, tool_mode="required", parallel=False)
    tokens = wander(GRAMMARS.compile(rules), random.Random(seed), 600)
    if not tokens:
        return  # it did not end in time
    ((name, arguments),) = calls_in(written(tokens), offered)
    assert_fits(name, arguments, offered)


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


EDIT = {
    "type": "function",
    "function": {
        "name": "edit",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "text": {"type": "string"},
                "line": {"type": "integer"},
                "options": {"type": "object", "additionalProperties": {"type": "boolean"}},
                "mode": {"enum": ["insert", "replace"]},
            },
            "required": ["path", "text"],
        },
    },
}


@given(
    arguments=st.fixed_dictionaries(
        {"path": st.text(max_size=20), "text": st.text(max_size=60)},
        optional={
            "line": st.integers(-99, 9999),
            "options": st.dictionaries(names, st.booleans(), max_size=2),
            "mode": st.sampled_from(["insert", "replace"]),
        },
    ),
    shuffled=st.randoms(),
)
@settings(max_examples=150, deadline=None)
def test_parameters_come_in_any_order(arguments: dict[str, Any], shuffled: random.Random) -> None:
    keys = list(arguments)
    shuffled.shuffle(keys)
    text = call_text("edit", {key: arguments[key] for key in keys})
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=[EDIT]))
    if any("\r" in str(v) or "</parameter>" in str(v) for v in arguments.values()):
        return
    assert accepts(constraint, text)
    ((name, told),) = calls_in("<tool_call>" + text + "</tool_call>", [EDIT])
    assert name == "edit"
    assert_fits(name, told, [EDIT])


@pytest.mark.parametrize(
    "text",
    [
        call_text("edit", {"path": "a"}),  # text is missing
        call_text("remove", {"path": "a", "text": "b"}),
        call_text("edit", {"path": "a", "text": "b", "other": "c"}),
        call_text("edit", {"path": "a", "text": "b", "line": "one"}),
        call_text("edit", {"path": "a", "text": "b", "mode": "delete"}),
        call_text("edit", {"path": "a", "text": "b", "options": {"x": 1}}),
        call_text("edit", {"path": "a", "text": "b"}).replace("</function>", "<parameter=path>\n"),
    ],
)
def test_what_does_not_fit_cannot_be_written(text: str) -> None:
    assert not accepts(GRAMMARS.compile(OutputRules(False, True, tools=[EDIT])), text)


FULL = call_text("edit", {"path": "a", "text": "b"})


def follow(constraint: Constraint, *parts: str | int) -> None:
    for part in parts:
        for token in [part] if isinstance(part, int) else TOKENIZER.encode(part):
            mask = constraint.mask()
            legal = mask is None or mask.view(np.uint32)[token // 32] >> (token % 32) & 1
            assert legal, f"{part!r} at {TOKENIZER.decode([token])!r}"
            constraint.accept(token)
    assert constraint.failure is None


def test_thought_and_text_are_free_and_so_is_what_follows_a_call() -> None:
    constraint = GRAMMARS.compile(OutputRules(True, False, tools=[EDIT]))
    follow(constraint, "Let me see.", THINK, "\n\nI will edit.\n\n")
    assert constraint.mask() is None
    follow(constraint, START)
    assert constraint.mask() is not None
    follow(constraint, FULL, END)
    assert constraint.mask() is None
    follow(constraint, "\n", START, FULL, END, EOS)


def test_a_call_in_a_thought_ends_it() -> None:
    constraint = GRAMMARS.compile(OutputRules(True, False, tools=[EDIT]))
    follow(constraint, "Let me see.", START, FULL, END)
    assert constraint.mask() is None


def test_without_parallel_calls_the_answer_ends_after_one() -> None:
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=[EDIT], parallel=False))
    follow(constraint, "Now.", START, FULL, END)
    assert allowed(constraint) == [EOS]


def test_a_required_call_comes_at_once_after_the_thought() -> None:
    rules = OutputRules(True, False, tools=[EDIT], tool_mode="required")
    constraint = GRAMMARS.compile(rules)
    follow(constraint, "Let me see.", THINK, "\n\n")
    assert allowed(constraint) == [START]
    follow(constraint, START, FULL, END)
    assert {EOS, START} <= set(allowed(constraint))
    follow(constraint, "\n", START, FULL, END, EOS)


def test_tool_mode_none_forbids_the_tag_everywhere() -> None:
    constraint = GRAMMARS.compile(OutputRules(True, False, tools=[EDIT], tool_mode="none"))
    assert START not in allowed(constraint)
    follow(constraint, "Hm.", THINK, "\n\nNo.")
    assert START not in allowed(constraint)
    assert len(allowed(constraint)) > 2000


def test_only_the_named_tools_may_be_called() -> None:
    other = {"type": "function", "function": {"name": "undo"}}
    rules = OutputRules(False, True, tools=[EDIT, other], tool_names=("undo",))
    assert accepts(GRAMMARS.compile(rules), "\n<function=undo>\n</function>\n")
    assert not accepts(GRAMMARS.compile(rules), FULL)


def test_a_call_whose_tag_was_forgotten_is_held_to_its_grammar() -> None:
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=[EDIT]))
    head, rest = FULL.removesuffix("\n").split(">", 1)
    follow(constraint, "Well. " + head + ">")
    assert constraint.mask() is not None
    follow(constraint, rest)
    assert constraint.mask() is None
    ((name, told),) = calls_in("Well. " + head + ">" + rest, [EDIT])
    assert_fits(name, told, [EDIT])


def test_a_strict_tool_that_cannot_be_enforced_is_refused_and_named() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "array", "uniqueItems": True}},
            },
        },
    }
    with pytest.raises(GrammarError, match="uniqueItems") as caught:
        GRAMMARS.compile(OutputRules(False, True, tools=[EDIT, tool]))
    assert caught.value.param == "tools[1].function.parameters"
    loose = {"type": "function", "function": {**tool["function"], "strict": False}}
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=[loose]))
    assert accepts(constraint, call_text("f", {"a": [1, 1]}))


def test_a_copy_starts_anew() -> None:
    constraint = GRAMMARS.compile(OutputRules(False, True, tools=[EDIT], tool_mode="required"))
    follow(constraint, START)
    assert allowed(constraint.copy()) == [START]


def test_a_thousand_tools_and_deep_schemas_take_bounded_time() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": deep}}},
    }
    GRAMMARS.compile(OutputRules(False, True, tools=[tool]))
    many = [{**EDIT, "function": {**EDIT["function"], "name": f"edit{i}"}} for i in range(500)]
    assert accepts(
        GRAMMARS.compile(OutputRules(False, True, tools=many)), FULL.replace("edit", "edit77")
    )
