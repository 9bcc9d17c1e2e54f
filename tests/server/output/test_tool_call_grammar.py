"""Tool calls under their grammar: what may be written is a call that fits its tool's schema."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import GrammarSpec
from server.output.constraint import Constraint, OutputRules
from server.output.events import ToolCallStart
from server.output.grammars import GrammarError
from server.output.parser import OutputParser
from tests.server.output.grammar_tools import (
    END,
    EOS,
    GRAMMARS,
    OTHER_END,
    START,
    THINK,
    TOKENIZER,
    accepts,
    allowed,
    assert_fits,
    call_text,
    calls_in,
    follow,
    written,
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


CLOSING = {
    token
    for token in range(2048)
    if TOKENIZER.token_bytes(token)[:1] in (b"\n", b"<", b"]", b"}", b'"')
}


def wander(constraint: Constraint, draw: random.Random, most: int) -> list[int]:
    """Some allowed way from here to the end of the answer, short ways liked better."""
    tokens: list[int] = []
    for _ in range(most):
        choice = allowed(constraint)
        if EOS in choice:
            return tokens
        # Tokens that close what is open come soon, so that a walk ends.
        closing = [token for token in choice if token in CLOSING]
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


TAG = "<tool_call>"


def spelled_out(text: str) -> list[int]:
    """`text` in tokens none of which is a control token."""
    return [token for character in text for token in TOKENIZER.encode(character)]


@pytest.mark.parametrize("thinking", [False, True])
def test_a_tag_that_is_spelled_begins_a_call_all_the_same(thinking: bool) -> None:
    constraint = GRAMMARS.compile(OutputRules(thinking, not thinking, tools=[EDIT]))
    head, rest = FULL.removesuffix("\n").split(">", 1)
    text = f"Well. {TAG}{head}>"
    tokens = spelled_out(text)
    assert START not in tokens
    for token in tokens:
        assert constraint.mask() is None
        constraint.accept(token)
    assert constraint.mask() is not None, "the call is held to its grammar"
    follow(constraint, rest)
    assert constraint.mask() is None
    parser = OutputParser(thinking=thinking, tools=[EDIT])
    events = [*parser.feed(text + rest), *parser.finish()]
    assert [event.name for event in events if isinstance(event, ToolCallStart)] == ["edit"]


def test_only_a_tag_begins_a_call_in_a_thought() -> None:
    constraint = GRAMMARS.compile(OutputRules(True, False, tools=[EDIT]))
    follow(constraint, "I could write <function=edit> here.")
    assert constraint.mask() is None


@pytest.mark.parametrize("demand", ["call", "answer"])
def test_a_thought_does_not_end_the_answer_where_one_is_demanded(demand: str) -> None:
    grammar = GrammarSpec("regex", "yes|no", "p") if demand == "answer" else None
    mode = "required" if demand == "call" else "auto"
    rules = OutputRules(True, False, tools=[EDIT], tool_mode=mode, grammar=grammar)
    constraint = GRAMMARS.compile(rules)
    follow(constraint, "Let me see.")
    legal = set(allowed(constraint))
    assert EOS not in legal
    assert OTHER_END not in legal
    assert {THINK, START} <= legal
    assert len(legal) > 2000
    free = GRAMMARS.compile(OutputRules(True, False, tools=[EDIT]))
    follow(free, "Let me see.", EOS)


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
