"""Anthropic's messages become the template's: blocks joined, results in order, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.anthropic_blocks import conversation
from server.api.errors import ApiError

HI = {"role": "user", "content": "Hi"}


def text(value, **fields):
    return {"type": "text", "text": value, **fields}


def call(name, called, **arguments):
    return {"type": "tool_use", "id": called, "name": name, "input": arguments}


def result(called, content: object = "done", **fields):
    return {"type": "tool_result", "tool_use_id": called, "content": content, **fields}


def messages(*wire, system=None):
    return conversation(system, list(wire)).messages


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks):
    return {"role": "assistant", "content": list(blocks)}


def test_strings_and_blocks_are_one():
    assert messages(HI) == messages(user(text("Hi"))) == [{"role": "user", "content": "Hi"}]
    assert messages(HI, system="Be brief.") == messages(HI, system=[text("Be brief.")])


def test_blocks_do_not_run_into_each_other():
    assert messages(user(text("a"), text("b")))[0]["content"] == "a\nb"
    assert messages(user(text("a\n"), text("b")))[0]["content"] == "a\nb"
    assert messages(user(text("a"), text(" b"), text("")))[0]["content"] == "a b"


@given(st.lists(st.text(), max_size=5))
def test_no_text_is_lost_or_made_up(texts):
    [message] = messages(user(*map(text, texts)))
    joined = message["content"]
    for part in texts:
        assert part in joined
    assert len(joined) <= sum(map(len, texts)) + max(0, len(texts) - 1)


@given(st.lists(st.text(), max_size=5))
def test_an_assistants_text_is_what_it_was(texts):
    """It was one text when it was generated, and has to become that again."""
    told = messages(HI, assistant(*map(text, texts)), HI)
    assert told[1] == {"role": "assistant", "content": "".join(texts)}


def test_cache_control_changes_nothing():
    marked = text("Hi", cache_control={"type": "ephemeral", "ttl": "1h"})
    assert messages(user(marked), system=[marked]) == messages(HI, system="Hi")


def test_thoughts_come_back_whatever_their_signature():
    thought = {"type": "thinking", "thinking": "hm", "signature": "anyone's"}
    unsigned = {"type": "thinking", "thinking": "hm"}
    told = messages(HI, assistant(thought, text("Yes.")), HI)
    assert told[1] == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
    assert messages(HI, assistant(unsigned, text("Yes.")), HI) == told


def test_thoughts_without_text_are_left_out():
    hidden = {"type": "thinking", "thinking": "", "signature": "x"}
    redacted = {"type": "redacted_thinking", "data": "x"}
    told = messages(HI, assistant(hidden, redacted, text("Yes.")), HI)
    assert told[1] == {"role": "assistant", "content": "Yes."}


def test_calls_and_results():
    told = messages(
        HI,
        assistant(text("Let me see."), call("f", "a", x="007"), call("g", "b")),
        user(result("a", "one"), result("b", [text("two"), text("three")]), text("Go on.")),
    )
    functions = [c["function"] for c in told[1]["tool_calls"]]
    assert functions == [{"name": "f", "arguments": {"x": "007"}}, {"name": "g", "arguments": {}}]
    assert [c["id"] for c in told[1]["tool_calls"]] == ["a", "b"]
    assert told[2:] == [
        {"role": "tool", "content": "one", "tool_call_id": "a"},
        {"role": "tool", "content": "two\nthree", "tool_call_id": "b"},
        {"role": "user", "content": "Go on."},
    ]


@given(st.permutations(["a", "b", "c", "unknown"]))
def test_results_stand_in_the_order_of_their_calls(order):
    """Templates tell results apart by their order only."""
    calls = [call("f", name) for name in "abc"]
    told = messages(HI, assistant(*calls), user(*[result(name, name) for name in order]))
    assert [m["content"] for m in told[2:]] == ["a", "b", "c", "unknown"]


def test_text_before_a_result_stays_before_it():
    told = messages(HI, assistant(call("f", "a")), user(text("Here:"), result("a"), text("So?")))
    assert [m["role"] for m in told[2:]] == ["user", "tool", "user"]


@pytest.mark.parametrize(
    ("block", "told"),
    [
        (result("a", "No such file"), "No such file"),
        (result("a", "No such file", is_error=True), "Error: No such file"),
        (result("a", "<tool_use_error>gone", is_error=True), "<tool_use_error>gone"),
        (result("a", "No such file", is_error=False), "No such file"),
        (result("a", None, is_error=True), "Error"),
        (result("a", None), ""),
        (result("a", []), ""),
        (result("a", [{"type": "tool_reference", "tool_name": "grep"}]), "grep"),
    ],
)
def test_what_a_tool_said(block, told):
    assert messages(HI, assistant(call("f", "a")), user(block))[2]["content"] == told


def test_documents_and_search_results_that_are_text():
    plain = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "D"},
    }
    parts = {
        "type": "document",
        "source": {"type": "content", "content": [text("D")]},
        "title": "T",
    }
    found = {"type": "search_result", "title": "T", "source": "S", "content": [text("C")]}
    assert messages(user(plain, text("?")))[0]["content"] == "D\n?"
    assert messages(user(parts, text("?")))[0]["content"] == "T\nD\n?"
    assert messages(user(found, text("?")))[0]["content"] == "T\nS\nC\n?"


def test_system_messages_keep_their_place():
    told = conversation("Be brief.", [HI, {"role": "system", "content": "Now."}, HI])
    assert [m["role"] for m in told.messages] == ["system", "user", "system", "user"]
    assert told.origins == (None, 0, 1, 2)


def test_origins_name_the_clients_messages():
    told = conversation(
        [text("x")],
        [HI, assistant(call("f", "a"), call("g", "b")), user(result("a"), result("b"), text("?"))],
    )
    assert told.origins == (None, 0, 1, 2, 2, 2)
    assert told.after_tools
    assert not told.continues


def test_an_answer_in_several_messages_is_one():
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    told = messages(HI, assistant(thought), assistant(text("a")), assistant(call("f", "x")), HI)
    assert [m["role"] for m in told] == ["user", "assistant", "user"]
    assert told[1]["content"] == "a"
    assert told[1]["reasoning_content"] == "hm"
    assert len(told[1]["tool_calls"]) == 1


def test_the_vendors_own_tools_are_left_out():
    used = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}
    found = {"type": "web_search_tool_result", "tool_use_id": "s", "content": []}
    told = messages(HI, assistant(text("I looked."), used, found), HI)
    assert told[1] == {"role": "assistant", "content": "I looked."}


def test_a_last_message_of_the_assistant_is_continued():
    told = conversation(None, [HI, {"role": "assistant", "content": "The best answer is ("}])
    assert told.continues
    assert told.messages[-1]["content"] == "The best answer is ("


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf"}}


@pytest.mark.parametrize(
    ("wire", "param", "word"),
    [
        (["x"], "messages[0]", "object"),
        ([{"role": "tool", "content": "x"}], "messages[0].role", "user, assistant, system"),
        ([{"role": "user"}], "messages[0].content", "string or a list"),
        ([{"role": "user", "content": 5}], "messages[0].content", "5"),
        ([user("x")], "messages[0].content[0]", "type"),
        ([user({"type": "text"})], "messages[0].content[0].text", "string"),
        ([user(text("a"), IMAGE)], "messages[0].content[1]", "image"),
        ([user(PDF)], "messages[0].content[0]", "base64"),
        ([user(result("a", [IMAGE]))], "messages[0].content[0].content[0]", "text only"),
        ([user({"type": "tool_result"})], "messages[0].content[0].tool_use_id", "string"),
        ([HI, assistant({"type": "tool_use", "id": "a"})], "messages[1].content[0].name", "string"),
        (
            [HI, assistant({**call("f", "a"), "input": "{}"}), HI],
            "messages[1].content[0].input",
            "object",
        ),
        ([HI, assistant(call("f", "a"))], "messages[1]", "tool_result"),
        ([HI, assistant({"type": "video"})], "messages[1].content[0]", "video"),
        ([{"role": "system", "content": [IMAGE]}, HI], "messages[0].content[0]", "text only"),
    ],
)
def test_mistakes_name_their_place(wire, param, word):
    with pytest.raises(ApiError, match=word) as caught:
        conversation(None, wire)
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_system_that_is_not_text():
    for system in (5, {}, [5], [IMAGE]):
        with pytest.raises(ApiError, match="system"):
            conversation(system, [HI])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "id", "name", "input", "source"]),
            inner
            | st.sampled_from(["user", "assistant", "text", "tool_use", "tool_result", "document"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(anything, st.lists(anything, min_size=1, max_size=4))
def test_anything_is_read_or_refused(system, wire):
    try:
        told = conversation(system, wire)
    except ApiError:
        return
    assert len(told.messages) == len(told.origins)
    assert all(isinstance(m["content"], str) for m in told.messages)
