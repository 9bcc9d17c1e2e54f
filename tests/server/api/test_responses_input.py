"""Input items become the conversation that they were."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.errors import ApiError
from server.api.responses_ids import input_item_id, item_id, new_response_id, response_of
from server.api.responses_input import conversation, items_of

ONE, OTHER = new_response_id(), new_response_id()
USER = {"role": "user", "content": "Hi"}


def told(*items, instructions=None, before=(), unseal=lambda sealed: None):
    return conversation(instructions, before, items, unseal).messages


def text(words, response=None, role="assistant", index=0):
    item = {"type": "message", "role": role, "content": [{"type": "output_text", "text": words}]}
    return item if response is None else {"id": item_id(response, "message", index), **item}


def thought(words, response=None, index=0, **more):
    content = [{"type": "reasoning_text", "text": words}]
    item = {"type": "reasoning", "summary": [], "content": content, **more}
    return item if response is None else {"id": item_id(response, "reasoning", index), **item}


def call(name, id, response=None, index=0, arguments="{}", **more):
    item = {"type": "function_call", "call_id": id, "name": name, "arguments": arguments, **more}
    return item if response is None else {"id": item_id(response, "function_call", index), **item}


def result(id, output):
    return {"type": "function_call_output", "call_id": id, "output": output}


def called(id, name, **arguments):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(id, content):
    return {"role": "tool", "content": content, "tool_call_id": id}


def test_a_string_is_a_question():
    assert told(*items_of("Hi")) == [USER]


@pytest.mark.parametrize("content", ["Hi", [{"type": "input_text", "text": "Hi"}], ["H", "i"]])
@pytest.mark.parametrize("typed", [{}, {"type": "message"}, {"type": None}])
def test_messages(content, typed):
    assert told({**typed, "role": "user", "content": content}) == [USER]


def test_instructions_anywhere():
    items = [
        {"role": "developer", "content": "b"},
        USER,
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "c"}]},
    ]
    messages = told(*items, instructions="a")
    assert [m["role"] for m in messages] == ["system", "system", "user", "system"]
    assert [m["content"] for m in messages] == ["a", "b", "Hi", "c"]


def test_instructions_alone_are_the_question():
    assert told(instructions="Say hi.") == [{"role": "user", "content": "Say hi."}]


def test_a_turn_of_the_model_is_one_message():
    items = [
        USER,
        thought("Hm", ONE, 0),
        text("Let me see.", ONE, index=1),
        call("f", "a", ONE, 2, '{"x": 1}'),
        result("a", "one"),
        text("Done.", OTHER),
    ]
    turn = {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "Hm",
        "tool_calls": [called("a", "f", x=1)],
    }
    last = {"role": "assistant", "content": "Done."}
    assert told(*items) == [USER, turn, tool("a", "one"), last]


def test_so_it_is_without_ids():
    items = [thought("Hm"), text("Let me see."), call("f", "a"), result("a", "one"), text("Done.")]
    roles = [(m["role"], "reasoning_content" in m) for m in told(*items)]
    assert roles == [("assistant", True), ("tool", False), ("assistant", False)]
    assert [m["content"] for m in told(text("a"), text("b"))] == ["a", "b"]
    twice = told(thought("a"), thought("b"), text("c"), thought("d"), text("e"))
    assert [(m["reasoning_content"], m["content"]) for m in twice] == [("ab", "c"), ("d", "e")]


def test_calls_of_one_response_are_one_turn_with_results_between():
    items = [call("f", "a", ONE, 0), result("a", "1"), call("g", "b", ONE, 1), result("b", "2")]
    both = {"role": "assistant", "content": "", "tool_calls": [called("a", "f"), called("b", "g")]}
    assert told(*items) == [both, tool("a", "1"), tool("b", "2")]
    items[2]["id"] = item_id(OTHER, "function_call", 0)
    assert [m["role"] for m in told(*items)] == ["assistant", "tool", "assistant", "tool"]


def test_texts_of_one_response_are_one_turn():
    [message] = told(text("a", ONE, index=0), call("f", "x", ONE, 1), text("b", ONE, index=2))
    assert message["content"] == "ab"
    assert len(told(text("a", ONE), text("b", OTHER))) == 2


@given(st.permutations("abcd"))
def test_results_are_in_the_order_of_their_calls(order):
    items = [USER, *(call("f", id) for id in "abcd"), *(result(id, id) for id in order), USER]
    assert [m["content"] for m in told(*items)[2:-1]] == list("abcd")


def test_results_of_unknown_calls_come_last():
    items = [call("f", "a"), result("?", "x"), result("a", "1"), result("?", "y")]
    assert [m["content"] for m in told(*items)[1:]] == ["1", "x", "y"]
    later = [call("f", "a"), call("g", "b"), result("b", "2"), USER, result("a", "1")]
    assert [m["content"] for m in told(*later)[1:]] == ["2", "Hi", "1"]


def test_origins_follow_their_messages():
    items = [USER, call("f", "a"), call("g", "b"), result("b", "2"), result("a", "1"), USER]
    made = conversation("Be brief.", [text("before", ONE)], items, lambda sealed: None)
    assert [m["content"] for m in made.messages] == [
        "Be brief.",
        "before",
        "Hi",
        "",
        "1",
        "2",
        "Hi",
    ]
    assert made.origins == [None, None, 0, 1, 4, 3, 5]


@pytest.mark.parametrize(
    ("reasoning", "words"),
    [
        ({"content": None, "summary": [{"type": "summary_text", "text": "S"}]}, "S"),
        ({"content": [], "summary": [{"type": "summary_text", "text": "S"}]}, "S"),
        ({"content": [{"type": "reasoning_text", "text": "C"}] * 2, "summary": ["?"]}, "CC"),
        ({"encrypted_content": "ours", "summary": []}, "OURS"),
        ({"encrypted_content": "ours", "content": [{"text": "C"}]}, "OURS"),
        ({"encrypted_content": "theirs", "content": [{"text": "C"}]}, "C"),
        ({"encrypted_content": None, "summary": [{"text": "S"}]}, "S"),
    ],
)
def test_a_thought(reasoning, words):
    items = [{"type": "reasoning", **reasoning}, text("x")]
    [message] = told(*items, unseal=lambda sealed: "OURS" if sealed == "ours" else None)
    assert message == {"role": "assistant", "content": "x", "reasoning_content": words}


def test_a_thought_that_cannot_be_read_is_left_out(caplog):
    item = {"type": "reasoning", "summary": [], "encrypted_content": "theirs"}
    assert told(USER, item, text("x")) == [USER, {"role": "assistant", "content": "x"}]
    assert "input[1]" in caplog.text


@pytest.mark.parametrize(
    ("output", "content"),
    [("x", "x"), ([{"type": "input_text", "text": "x"}] * 2, "xx"), (None, ""), ([], "")],
)
def test_outputs(output, content):
    assert told(call("f", "a"), result("a", output))[1] == tool("a", content)


@pytest.mark.parametrize(
    ("arguments", "mapping"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ("", {}),
        ('{"a": "cut', {"arguments": '{"a": "cut'}),
        ("[1]", {"arguments": "[1]"}),
    ],
)
def test_arguments(arguments, mapping):
    [message] = told(call("f", "a", arguments=arguments))
    assert message["tool_calls"][0]["function"]["arguments"] == mapping


def test_a_call_in_a_namespace_has_the_name_it_was_offered_by():
    [message] = told(call("weather", "a", namespace="geo"))
    assert message["tool_calls"][0]["function"]["name"] == "geo.weather"


def test_calls_of_other_tools_are_shown_as_calls():
    items = [
        {"type": "custom_tool_call", "call_id": "a", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "a", "output": "ok"},
        {"type": "local_shell_call", "call_id": "b", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "call_id": "b", "output": "file"},
        {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "f", "stderr": "e"}]},
    ]
    messages = told(*items)
    assert [m["content"] for m in messages] == ["", "ok", "", "file", "", "fe"]
    calls = [m["tool_calls"][0]["function"] for m in messages[::2]]
    assert calls == [
        {"name": "patch", "arguments": {"input": "*** Begin"}},
        {"name": "local_shell", "arguments": {"command": ["ls"]}},
        {"name": "shell", "arguments": {"commands": ["ls"]}},
    ]


def test_items_that_are_not_known_are_left_out(caplog):
    other = [{"type": "web_search_call", "id": "ws_1"}, {"type": "compaction", "id": "c"}]
    assert told(USER, *other) == [USER]
    assert "web_search_call" in caplog.text


@pytest.mark.parametrize(
    ("items", "param"),
    [
        (["x"], "input[0]"),
        ([USER, None], "input[1]"),
        ([{"type": 1}], "input[0].type"),
        ([{"role": "tool", "content": "x"}], "input[0].role"),
        ([{"content": "x"}], "input[0].role"),
        ([{"role": "user", "content": 1}], "input[0].content"),
        ([{"role": "user", "content": [{"type": "input_image"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0]"),
        ([{"type": "function_call", "call_id": "a", "arguments": ""}], "input[0].name"),
        ([result("a", [{"type": "input_image", "image_url": "x"}])], "input[0].output[0]"),
        ([{"type": "reasoning", "summary": "x"}], "input[0].summary"),
        ([], "input"),
    ],
)
def test_mistakes_name_their_place(items, param):
    with pytest.raises(ApiError) as refused:
        told(*items)
    assert (refused.value.param, refused.value.kind.status) == (param, 400)


@pytest.mark.parametrize("given", [1, {"role": "user"}, [USER] * 10_001])
def test_input_is_a_string_or_a_list(given):
    with pytest.raises(ApiError, match="input must be a string or a list of up to 10000 items"):
        items_of(given)


@given(st.sampled_from(["reasoning", "message", "function_call"]), st.integers(0, 65535))
def test_ids_of_items_tell_their_response(kind, index):
    response = new_response_id()
    assert response_of(item_id(response, kind, index)) == response
    assert response_of(input_item_id(kind)) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "id", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KINDS = ["message", "reasoning", "function_call", "function_call_output", "item_reference", "?"]
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(KINDS) | VALUES,
        "role": st.sampled_from(["user", "assistant", "system"]) | VALUES,
        "id": st.just(item_id(ONE, "message", 0)) | VALUES,
        **{
            name: st.text(max_size=3) | VALUES
            for name in ("content", "summary", "name", "arguments", "output", "call_id")
        },
    },
)


def told_or_refused(items):
    """The messages, or the place of the mistake."""
    try:
        return told(*items), None
    except ApiError as error:
        return [], str(error.param)


@given(st.lists(ITEMS | VALUES, max_size=4))
def test_anything_is_a_conversation_or_a_mistake_that_is_named(items):
    messages, refused = told_or_refused(items)
    assert (refused is None) or refused.startswith("input")
    json.dumps(messages)
    assert all(isinstance(message["content"], str) for message in messages)
    for message in messages:
        for made in message.get("tool_calls", ()):
            assert made["function"]["name"]
            assert isinstance(made["function"]["arguments"], dict)
