"""What clients need of the parsed answer, by the numbers of the list of forty behaviours. Those of
indices, ids and finish reasons are beside the engine's answer; those of the wire beside the API."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import model
from model.template import ChatTemplate
from model.tokenizer import Tokenizer
from server.api.messages import template_messages
from server.output import (
    ContentText,
    OutputParser,
    ReasoningText,
    StopHit,
    ToolCallArguments,
    ToolCallStart,
)

DEMO = Path(model.__path__[0]) / "demo" / "checkpoint"
TOKENIZER = Tokenizer.from_folder(DEMO)
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>")
TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {f"a_{kind}": {"type": kind} for kind in TYPES},
            },
        },
    }
]

cuts = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def _events(pieces, *, thinking=False, stop=()):
    parser = OutputParser(thinking, stop, TOOLS)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def _pieces(text, lengths):
    at = 0
    while at < len(text):
        for length in lengths:
            yield text[at : at + length]
            at += length


def _tokens(text):
    """The text as it comes, token by token."""
    detokenizer = TOKENIZER.detokenizer()
    tokens = TOKENIZER.encode(text, allow_special=True)
    yield from map(detokenizer.add, tokens)
    yield detokenizer.flush()


def _joined(events, kind):
    return "".join(event.text for event in events if isinstance(event, kind))


def _written(**arguments):
    parameters = "".join(
        f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>"


@given(cuts)
def test_behaviour_02_the_argument_pieces_join_to_a_json_object(lengths):
    value = 'say "hi"\n\tand \\ go <on>'
    events = _events(_pieces(_written(a_string=value, a_integer="7"), lengths))
    assert json.loads(_joined(events, ToolCallArguments)) == {"a_string": value, "a_integer": 7}


@given(cuts, st.booleans(), st.sampled_from(["stop", "cut"]))
def test_behaviour_04_no_tag_leaks_across_any_chunk_boundary(lengths, thinking, end):
    call = _written(a_string="x")
    answer = (
        f"<think>\nwhy?\n</think>\n\nSo <think> it is.\n\n{call}\n<tool_call> no {call}<|im_end|>"
    )
    answer = answer.removeprefix("<think>") if thinking else answer
    text = answer if end == "stop" else answer[:-4]
    events = _events(_pieces(text, lengths), thinking=thinking)
    assert _joined(events, ReasoningText) == "why?"
    content = _joined(events, ContentText)
    assert not [tag for tag in TAGS if tag in content]
    assert "So" in content


@pytest.mark.parametrize(
    ("content", "result"),
    [
        (None, "18 degrees"),
        ("", [{"type": "text", "text": "18 "}, {"type": "text", "text": "degrees"}]),
        ([], "18 degrees"),
        ("absent", [{"type": "text", "text": "18 degrees"}]),
    ],
)
def test_behaviour_13_calls_and_results_in_the_history_are_rendered(content, result):
    call = {"type": "function", "function": {"name": "f", "arguments": '{"a_string": "007"}'}}
    assistant = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "call_1", **call}, {"id": "call_2", **call}],
    }
    if content == "absent":
        del assistant["content"]
    wire = [
        {"role": "user", "content": "How warm?"},
        assistant,
        {"role": "tool", "tool_call_id": "call_1", "content": result},
        {"role": "tool", "tool_call_id": "call_2", "content": result},
    ]
    rendered = ChatTemplate.from_folder(DEMO).render(
        template_messages(wire),
        tools=TOOLS,
        add_generation_prompt=True,
        enable_thinking=False,
        preserve_thinking=True,
    )
    both = f"{_written(a_string='007')}\n{_written(a_string='007')}<|im_end|>"
    assert both in rendered
    assert rendered.count("<tool_response>\n18 degrees\n</tool_response>") == 2


def test_behaviour_25_parallel_calls_are_two():
    events = _events(_tokens(_written(a_integer="1") + "\n" + _written(a_integer="2")))
    assert [event for event in events if isinstance(event, ToolCallStart)] == [
        ToolCallStart(0, "f"),
        ToolCallStart(1, "f"),
    ]
    for index in (0, 1):
        own = [e for e in events if isinstance(e, ToolCallArguments) and e.index == index]
        assert json.loads(_joined(own, ToolCallArguments)) == {"a_integer": index + 1}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("string", "007", "007"),
        ("string", "true", "true"),
        ("string", "null", "null"),
        ("string", "[1]", "[1]"),
        ("integer", "7", 7),
        ("number", "0.5", 0.5),
        ("boolean", "true", True),
        ("boolean", "False", False),
        ("null", "null", None),
        ("array", '[1, "é"]', [1, "é"]),
        ("object", '{\n  "a": {"b": []}\n}', {"a": {"b": []}}),
    ],
)
def test_behaviour_26_arguments_have_the_types_of_their_schema(kind, text, value):
    key = f"a_{kind}"
    arguments = json.loads(_joined(_events(_tokens(_written(**{key: text}))), ToolCallArguments))
    assert arguments == {key: value}
    assert type(arguments[key]) is type(value)


@given(cuts)
def test_behaviour_29_stops_work_across_pieces_and_not_in_thoughts_or_calls(lengths):
    text = f"END of a thought</think>\n\n{_written(a_string='END')}\nAnswer EN END more"
    events = _events(_pieces(text, lengths), thinking=True, stop=["END", "unseen"])
    assert _joined(events, ReasoningText) == "END of a thought"
    assert json.loads(_joined(events, ToolCallArguments)) == {"a_string": "END"}
    assert _joined(events, ContentText) == "Answer EN "
    assert events[-1] == StopHit("END")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<\ufffd")))
def test_behaviour_30_no_character_is_split(text):
    text = f"a 🦜👩‍👩‍👧 é 漢 {text}"
    answered = _events(_tokens(text))
    assert _joined(answered, ContentText) == text
    called = _events(_tokens(_written(a_string=text)))
    for event in [*answered, *called]:
        if isinstance(event, (ContentText, ToolCallArguments)):
            assert "\ufffd" not in event.text
            event.text.encode()
    assert json.loads(_joined(called, ToolCallArguments)) == {"a_string": text}
