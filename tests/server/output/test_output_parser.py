"""The parser tells thinking, answer and calls apart, however the text is cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.output import (
    ContentText,
    OutputParser,
    ReasoningText,
    StopHit,
    ToolCallArguments,
    ToolCallStart,
)

TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>"]
PIECES = [
    *TAGS,
    "<function=f>",
    "<function=f></tool_call>",
    "<function=other>",
    "<function=",
    "</function>",
    "<parameter=a>",
    "<parameter=b>\n",
    "\n</parameter>",
    "</parameter>",
    "\n",
    "\n\n",
    " ",
    "<",
    ">",
    "<thi",
    "nk>",
    "007",
    "END",
    "EN",
    "é🦜",
    "word ",
]
FUNCTION = {
    "name": "f",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
    },
}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = (
    "<tool_call>\n<function=f>\n<parameter=a>\n007\n</parameter>\n<parameter=b>\n7\n</parameter>\n"
    "</function>\n</tool_call>"
)

written = st.lists(
    st.one_of(st.sampled_from([*PIECES, CALL]), st.text(max_size=4)), max_size=14
).map("".join)
setups = st.tuples(st.booleans(), st.sampled_from([(), ("END",), ("\n\n", "ND"), ("<", "é")]))


def _run(pieces, thinking=False, stop=(), tools=None):
    parser = OutputParser(thinking, stop, tools)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return _merged(events + parser.finish())


def _merged(events):
    """The events with neighbouring texts of one kind joined."""
    merged: list = []
    for event in events:
        last = merged[-1] if merged else None
        if isinstance(event, (ContentText, ReasoningText)) and last and type(last) is type(event):
            merged[-1] = type(event)(last.text + event.text)
        elif isinstance(event, ToolCallArguments) and isinstance(last, ToolCallArguments):
            merged[-1] = ToolCallArguments(event.index, last.text + event.text)
        else:
            merged.append(event)
    return merged


def _texts(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


def _calls(events):
    names = {event.index: event.name for event in events if isinstance(event, ToolCallStart)}
    joined = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, ToolCallArguments):
            joined[event.index] += event.text
    return [(name, json.loads(joined[index])) for index, name in sorted(names.items())]


@settings(max_examples=300)
@given(written, setups, st.booleans(), st.data())
def test_any_cut_gives_what_the_whole_gives(text, setup, offered, data):
    thinking, stop = setup
    tools = TOOLS if offered else None
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    whole = _run([text], thinking, stop, tools)
    assert _run(pieces, thinking, stop, tools) == whole
    assert _run(text, thinking, stop, tools) == whole


@given(written, setups, st.booleans())
def test_no_tag_ever_shows(text, setup, offered):
    events = _run([text], setup[0], setup[1], TOOLS if offered else None)
    for kind in (ContentText, ReasoningText):
        shown = _texts(events, kind)
        assert not [tag for tag in TAGS if tag in shown]


@given(st.text(st.characters(exclude_characters="<\n"), min_size=1))
def test_plain_content_is_passed_unchanged(text):
    assert _run([text]) == [ContentText(text)]


def test_thinking_then_answer_without_the_newlines_around():
    assert _run(["\nI think\n so.\n</think>\n\nYes.\n"], thinking=True) == [
        ReasoningText("I think\n so."),
        ContentText("Yes.\n"),
    ]


def test_text_is_passed_on_as_soon_as_it_is_certain():
    parser = OutputParser(True)
    assert parser.feed("so") == [ReasoningText("so")]
    assert parser.feed(" a <") == [ReasoningText(" a ")]
    assert parser.feed("b") == [ReasoningText("<b")]
    assert parser.feed("</think>\n\nyes") == [ContentText("yes")]


def test_a_think_block_with_thinking_off_is_still_reasoning():
    assert _run(["<think>why</think>\n\nso"]) == [ReasoningText("why"), ContentText("so")]


def test_what_is_left_out_joins_nothing_to_a_tag():
    assert _run(["so <thi<think>nk>"]) == [ContentText("so <thi nk>")]
    assert _run(["<|im_<tool_call>end|>"]) == [ContentText("<|im_ end|>")]
    events = _run([f"<thi\n{CALL}\nnk>"], tools=TOOLS)
    assert _texts(events, ContentText) == "<thi\n\nnk>"


def test_think_inside_an_answer_is_only_left_out():
    assert _run(["the <think> tag"]) == [ContentText("the  tag")]


def test_calls_are_typed_by_the_schema_and_counted():
    events = _run([f"Let me see.\n\n{CALL}\n{CALL}"], tools=TOOLS)
    assert events[0] == ContentText("Let me see.")
    assert _calls(events) == [("f", {"a": "007", "b": 7})] * 2
    assert len(events) == 5


def test_content_after_a_call_is_a_new_paragraph():
    events = _run([f"One.\n{CALL}\nTwo.\n{CALL}\n"], tools=TOOLS)
    assert _texts(events, ContentText) == "One.\n\nTwo."
    assert len(_calls(events)) == 2


def test_a_call_ends_the_thinking():
    events = _run([f"I call.\n{CALL}"], thinking=True, tools=TOOLS)
    assert events[0] == ReasoningText("I call.")
    assert _calls(events) == [("f", {"a": "007", "b": 7})]


def test_the_tag_alone_does_not_end_the_thinking():
    events = _run(["I write <tool_call> then.</think>Done"], thinking=True, tools=TOOLS)
    assert events == [ReasoningText("I write  then."), ContentText("Done")]


def test_a_forgotten_tag_is_a_call_when_the_function_is_offered():
    bare = CALL.removeprefix("<tool_call>\n")
    assert _calls(_run(["Well.\n", bare], tools=TOOLS)) == [("f", {"a": "007", "b": 7})]
    other = bare.replace("=f>", "=g>")
    assert _calls(_run([other], tools=TOOLS)) == []


@pytest.mark.parametrize("thinking", [False, True])
def test_a_call_of_a_tool_that_is_not_offered_is_text(thinking):
    other = CALL.replace("=f>", "=g>")
    events = _run([other], tools=TOOLS, thinking=thinking)
    assert _calls(events) == []
    kind = ReasoningText if thinking else ContentText
    assert _texts(events, kind).startswith("<function=g>\n<parameter=a>\n007\n</parameter>")
    assert _calls(_run([other, CALL], tools=TOOLS)) == [("f", {"a": "007", "b": 7})]


def test_a_name_may_be_long_and_have_blanks_around_it():
    name = "n" * 257
    function = {"name": name, "parameters": {"properties": {"a": {"type": "string"}}}}
    call = CALL.replace("=f>", f"=  {name} >")
    ((called, _),) = _calls(_run([call], tools=[{"type": "function", "function": function}]))
    assert called == name


def test_a_call_without_a_name_is_text():
    events = _run(["<tool_call>\n<function= >\n</function>\n</tool_call>"], tools=TOOLS)
    assert _calls(events) == []
    assert _texts(events, ContentText) == "<function= >\n</function>\n"


def test_without_tools_a_call_is_content_without_its_tags():
    assert _run(["<tool_call>\n<function=f>\n</function>\n</tool_call>"]) == [
        ContentText("<function=f>\n</function>\n")
    ]


@given(
    st.lists(
        st.one_of(st.sampled_from([*PIECES, "</function>\n</tool_call>"]), st.text(max_size=5)),
        max_size=8,
    ).map("".join)
)
def test_a_string_value_comes_back_as_the_template_writes_it(value):
    # Only the one sequence that ends a parameter cannot be part of its value.
    ends = ("</parameter>\n<parameter=", "</parameter>\n</function>", "</parameter></")
    written_out = f"\n{value}\n"
    if any(end.replace("\n", "") in "".join(written_out.split()) for end in ends):
        return
    text = f"<tool_call>\n<function=f>\n<parameter=a>{written_out}</parameter>\n</function>"
    assert _calls(_run([text], tools=TOOLS)) == [("f", {"a": value})]


def test_a_call_without_its_functions_end_is_closed_by_the_block():
    text = CALL.replace("</function>\n", "") + "so"
    for pieces in ([text], text):
        events = _run(pieces, tools=TOOLS)
        assert _calls(events) == [("f", {"a": "007", "b": 7})]
        assert events[-1] == ContentText("so")


def test_a_value_may_hold_the_grammar_itself():
    value = "see </parameter> and </function>\n</tool_call> and <think>"
    text = CALL.replace("007", value)
    assert _calls(_run(text, tools=TOOLS)) == [("f", {"a": value, "b": 7})]


def test_a_parameter_left_open_is_closed_by_the_models_own_end():
    text = "<tool_call>\n<function=f>\n<parameter=a>\nx\n</function>\n</tool_call>"
    assert _calls(_run([text], tools=TOOLS)) == [("f", {"a": "x"})]


def test_stop_strings_end_the_content_before_them():
    for pieces in (["abSTOPcd"], ["abS", "TO", "Pcd"]):
        assert _run(pieces, stop=("STOP",)) == [ContentText("ab"), StopHit("STOP")]


def test_a_partial_stop_is_text_after_all():
    assert _run(["abSTO"], stop=("STOP",)) == [ContentText("abSTO")]
    assert _run(["S", "S", "TOP"], stop=("STOP",)) == [ContentText("S"), StopHit("STOP")]


def test_newlines_can_be_a_stop_but_not_those_after_thinking():
    events = _run(["t\n\nt</think>\n\na\nb\n\nc"], thinking=True, stop=("\n\n",))
    assert events == [ReasoningText("t\n\nt"), ContentText("a\nb"), StopHit("\n\n")]


def test_stops_do_not_apply_to_thinking_nor_to_calls():
    text = f"007</think>ok {CALL}"
    events = _run([text], thinking=True, stop=("007",), tools=TOOLS)
    assert events[:2] == [ReasoningText("007"), ContentText("ok ")]
    assert _calls(events) == [("f", {"a": "007", "b": 7})]


def test_nothing_follows_a_stop():
    parser = OutputParser(False, ("X",), TOOLS)
    assert parser.feed("aXb") == [ContentText("a"), StopHit("X")]
    assert parser.feed(f"c{CALL}") == []
    assert parser.finish() == []


@pytest.mark.parametrize("thinking", [True, False])
def test_nothing_said_is_nothing_reported(thinking):
    assert _run([], thinking=thinking) == []
    assert _run(["\n\n"], thinking=thinking) == []


@pytest.mark.parametrize("thinking", [True, False])
def test_tags_in_a_structured_answer_are_data(thinking):
    answer = '{"a": "<think>x</think>", "b": "<tool_call>\\n<function=f>", "c": "<|im_end|>"}'
    text = f"Why <tool_call> not</think>\n\n{answer}" if thinking else answer
    for size in (1, 7, len(text)):
        parser = OutputParser(thinking, structured=True)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        events = [event for piece in pieces for event in parser.feed(piece)] + parser.finish()
        assert _texts(events, ContentText) == answer


def test_a_structured_answer_may_be_a_call_instead():
    call = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    parser = OutputParser(False, tools=tools, structured=True)
    assert _calls([*parser.feed(call), *parser.finish()])
    parser = OutputParser(False, tools=tools, structured=True)
    events = [*parser.feed(f'{{"a": "{call}"}}'), *parser.finish()]
    assert _texts(events, ContentText) == f'{{"a": "{call}"}}'
    assert not _calls(events)
