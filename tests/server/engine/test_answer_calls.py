"""Tool calls in an answer as clients need them: ids, indices, and why it ended."""

import json
from dataclasses import replace

import pytest

from server.engine.answer import Answer, Limits
from server.engine.events import ContentDelta, TokenLogprob, ToolCallDelta
from server.output import OutputParser

EOS = 0
STRING = {"type": "string"}
TOOLS = [
    {"function": {"name": "write", "parameters": {"properties": {"path": STRING, "text": STRING}}}}
]
CALL = (
    "<tool_call>\n<function=write>\n<parameter=path>\n{}\n</parameter>\n<parameter=text>\nhi\n"
    "</parameter>\n</function>\n</tool_call>"
)


class Characters:
    """A token is a character."""

    def add(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


def _answer(stop=(), tokens=10_000):
    limits = Limits(tokens, frozenset({EOS}), think_end=None, budget=None, closing=())
    return Answer(0, limits, Characters(), OutputParser(False, stop, TOOLS), thinking=False)


def _said(answer, text):
    """The events of `text`, up to the end of the answer."""
    events = []
    for token in map(ord, text):
        if answer.reason is None:
            events += answer.take(token)
    return events


def _calls(events):
    return [event for event in events if isinstance(event, ToolCallDelta)]


def test_behaviour_02_index_in_every_delta_id_and_name_in_the_first_and_the_rest_join_to_json():
    events = _calls(_said(_answer(), CALL.format("a") + CALL.format("b") + chr(EOS)))
    for index, path in enumerate("ab"):
        first, *rest = [event for event in events if event.index == index]
        assert (first.name, first.arguments) == ("write", "")
        assert first.id
        assert len(rest) > 4
        assert {(event.id, event.name) for event in rest} == {(None, None)}
        joined = "".join(event.arguments for event in rest)
        assert json.loads(joined) == {"path": path, "text": "hi"}


@pytest.mark.parametrize(
    ("text", "tokens", "reason"),
    [
        ("Paris." + chr(EOS), 100, "stop"),
        (CALL.format("a") + chr(EOS), 1000, "tool_calls"),
        ("I write. " + CALL.format("a") + "\nDone." + chr(EOS), 1000, "tool_calls"),
        ("Paris.", 3, "length"),
        (CALL.format("a"), len("<tool_call>\n<function=write>"), "length"),
        (CALL.format("a"), 60, "length"),
        (CALL.format("a")[:60] + chr(EOS), 100, "length"),
        (CALL.format("a") + CALL.format("b")[:60] + chr(EOS), 1000, "length"),
        (CALL.format("a") + CALL.format("b"), len(CALL) + 60, "length"),
        ("<tool_call>\n<func" + chr(EOS), 100, "stop"),
        ("Paris. END", 100, "stop"),
        (CALL.format("a") + "\nEND", 1000, "tool_calls"),
    ],
)
def test_behaviour_03_tool_calls_where_calls_were_made_length_where_cut_else_stop(
    text, tokens, reason
):
    answer = _answer(("END",), tokens)
    _said(answer, text)
    assert answer.reason == reason


def test_behaviour_03_a_cut_call_shows_what_was_written_streamed_and_whole():
    for end in (chr(EOS), ""):
        text = CALL.format("a").replace("hi", "line 1\nline 2")
        cut = text[: text.index("2") + 1]
        answer = _answer(tokens=len(cut) + len(end))
        events = _said(answer, cut + end)
        assert answer.reason == "length"
        assert answer.tool_calls[0]["arguments"] == '{"path": "a", "text": "line 1\\nline 2'
        assert (
            "".join(event.arguments for event in _calls(events))
            == (answer.tool_calls[0]["arguments"])
        )
        assert not answer.reusable, "what comes back is not what was generated"


def test_behaviour_25_parallel_calls_have_their_own_index_and_id():
    answer = _answer()
    events = _calls(_said(answer, "\n".join(map(CALL.format, "abc")) + chr(EOS)))
    ids = {event.index: event.id for event in events if event.id}
    assert list(ids) == [0, 1, 2]
    assert len(set(ids.values())) == 3
    assert [call["id"] for call in answer.tool_calls] == list(ids.values())
    paths = [json.loads(call["arguments"])["path"] for call in answer.tool_calls]
    assert paths == ["a", "b", "c"]


def test_behaviour_29_a_stop_string_is_left_out_named_and_not_looked_for_in_calls():
    answer = _answer(("hi", "never"))
    events = _said(answer, CALL.format("hi") + "\nI said hi there")
    assert json.loads(answer.tool_calls[0]["arguments"])["path"] == "hi"
    assert "".join(event.text for event in events if isinstance(event, ContentDelta)) == "I said "
    assert answer.stop == "hi"


def test_only_content_has_log_probabilities():
    known = TokenLogprob("", b"", -1.0, 0)
    answer = _answer()
    told = ""
    for token in map(ord, f"So: {CALL.format('a')}"):
        for event in answer.take(token, replace(known, token=chr(token), bytes=bytes([token]))):
            if isinstance(event, ContentDelta):
                told += "".join(item.token for item in event.logprobs)
    assert told == "So: "
