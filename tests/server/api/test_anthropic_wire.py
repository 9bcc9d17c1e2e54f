"""Streams of events: in order, strictly of the SDK's types, and in sum the whole message."""

import json

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from server.api.anthropic_wire import SIGNATURE, Answer, Events, Whole
from server.engine.events import (
    CacheReport,
    ContentDelta,
    Finished,
    FinishReason,
    PrefillProgress,
    ReasoningDelta,
    Started,
    Timings,
    ToolCallDelta,
    Usage,
)

STRICT = TypeAdapter(RawMessageStreamEvent)
TIMINGS = Timings(0, 0, 0, 0)
CACHE = CacheReport(reused=7, prefilled=4, common=8)


def finished(reason: FinishReason = "stop", stop=None, **usage):
    counts = {"prompt_tokens": 11, "completion_tokens": 9, "reasoning_tokens": 4}
    told = Usage(**{**counts, "cached_tokens": 7, "thinking_cut": False, **usage})
    return Finished(0, reason, told, TIMINGS, stop)


def call(index, name, *pieces):
    first = ToolCallDelta(0, index, f"call_{index}", name, "")
    return [first, *[ToolCallDelta(0, index, None, None, piece) for piece in pieces]]


def stream(events, **answer):
    made = Events(Answer("m", **answer))
    told = [told for event in events for told in made.add(event)]
    assert made.complete
    return [*told, *made.closing()]


def whole(events, **answer):
    made = Whole(Answer("m", **answer))
    for event in events:
        made.add(event)
    assert made.complete
    return made.json()


def checked(told):
    """The blocks of a stream, whose order and types are checked on the way; as the SDKs do it."""
    for event in told:
        if event["type"] != "ping":
            STRICT.validate_json(json.dumps(event), strict=True)
    kinds = [event["type"] for event in told]
    assert kinds[:2] == ["message_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    blocks: list[dict] = []
    open_block: dict | None = None
    for event in told[2:-2]:
        if event["type"] == "content_block_start":
            assert open_block is None
            assert event["index"] == len(blocks)
            open_block = dict(event["content_block"])
            assert not any(open_block.get(key) for key in ("text", "thinking", "input"))
            blocks.append(open_block)
        elif event["type"] == "content_block_delta":
            assert open_block is not None
            delta = event["delta"]
            field = delta["type"].removesuffix("_delta")
            field, key = ("json", "partial_json") if field == "input_json" else (field, field)
            assert event["index"] == len(blocks) - 1
            open_block[field] = open_block.get(field, "") + delta[key]
            assert delta[key]
        else:
            assert event["type"] == "content_block_stop"
            assert event["index"] == len(blocks) - 1
            open_block = None
    assert open_block is None
    return blocks


def content(told):
    """What the whole message should have for content."""
    blocks = []
    for block in checked(told):
        arguments = block.pop("json", "")
        if block["type"] == "tool_use":
            try:
                block["input"] = json.loads(arguments)
            except ValueError:
                continue
        blocks.append(block)
    return blocks


START = [Started(11, 7, CACHE), PrefillProgress(11, 11)]


def test_all_in_order():
    events = [
        *START,
        ReasoningDelta(0, "Hm"),
        ReasoningDelta(0, ", "),
        ContentDelta(0, "\n\n"),
        ContentDelta(0, "Let me see."),
        *call(0, "f", '{"a"', ": 1}"),
        ContentDelta(0, "\n"),
        *call(1, "g", "{}"),
        finished("tool_calls"),
    ]
    told = stream(events)
    assert checked(told) == [
        {"type": "thinking", "thinking": "Hm, ", "signature": SIGNATURE},
        {"type": "text", "text": "\n\nLet me see.", "citations": None},
        {
            "type": "tool_use",
            "id": "call_0",
            "name": "f",
            "input": {},
            "caller": {"type": "direct"},
            "json": '{"a": 1}',
        },
        {
            "type": "tool_use",
            "id": "call_1",
            "name": "g",
            "input": {},
            "caller": {"type": "direct"},
            "json": "{}",
        },
    ]
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


def test_usage_counts_the_cached_apart():
    told = stream([*START, ContentDelta(0, "x"), finished()])
    first, last = told[0]["message"]["usage"], told[-2]["usage"]
    for usage in (first, last):
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (4, 7)
        assert usage["cache_creation_input_tokens"] == 0
    assert (first["output_tokens"], last["output_tokens"]) == (0, 9)
    assert last["output_tokens_details"] == {"thinking_tokens": 4}
    assert told[-2]["x_mxserve"]["cache"]["reused_tokens"] == 7


@pytest.mark.parametrize(
    ("end", "answer", "reason", "sequence"),
    [
        (finished(), {}, "end_turn", None),
        (finished("length"), {}, "max_tokens", None),
        (finished("length"), {"cut_to_context": True}, "model_context_window_exceeded", None),
        (finished("stop"), {"cut_to_context": True}, "end_turn", None),
        (finished("stop", "END"), {}, "stop_sequence", "END"),
        (finished("tool_calls"), {}, "tool_use", None),
        (finished("length"), {"silent": True}, "max_tokens", None),
    ],
)
def test_why_it_ended(end, answer, reason, sequence):
    events = [*START, ContentDelta(0, "x"), end]
    delta = stream(events, **answer)[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == (reason, sequence)
    message = whole(events, **answer)
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)


def test_a_call_that_was_cut_off_has_no_invented_input():
    events = [*START, ContentDelta(0, "x"), *call(0, "f", '{"a": "b'), finished("length")]
    assert [b["type"] for b in whole(events)["content"]] == ["text"]
    assert [b["type"] for b in checked(stream(events))] == ["text", "tool_use"]


def test_thoughts_that_are_not_shown_leave_a_signed_block():
    events = [*START, ReasoningDelta(0, "secret"), ContentDelta(0, "x"), finished()]
    told = stream(events, shows_thought=False)
    assert "secret" not in json.dumps(told)
    assert checked(told)[0] == {"type": "thinking", "thinking": "", "signature": SIGNATURE}


def test_no_text_no_block():
    blank = [ReasoningDelta(0, "\n"), ContentDelta(0, ""), ContentDelta(0, "\n \n")]
    for events in ([*START, finished()], [*START, *blank, finished()]):
        assert checked(stream(events)) == []
        assert whole(events)["content"] == []


texts = st.text(st.sampled_from("ab \n🗼é"), max_size=3)
pieces = st.lists(texts, max_size=3)
parts = st.one_of(
    pieces.map(lambda found: [ReasoningDelta(0, text) for text in found]),
    pieces.map(lambda found: [ContentDelta(0, text) for text in found]),
    st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(texts, texts), st.integers(0, 9)),
)


@st.composite
def scripts(draw):
    """Engine events in any order: thoughts, texts and calls, the last call perhaps cut off."""
    events = [*START]
    count = 0
    for part in draw(st.lists(parts, max_size=6)):
        if isinstance(part, list):
            events += part
            continue
        name, arguments, cut = part
        text = json.dumps(arguments, ensure_ascii=False)
        events += call(count, name, *filter(None, [text[:cut], text[cut:]]))
        count += 1
    if count and isinstance(events[-1], ToolCallDelta) and draw(st.booleans()):
        return [*events[:-1], finished("length")]
    return [*events, finished("tool_calls" if count else "stop")]


@given(scripts(), st.booleans())
@example(
    [*START, ContentDelta(0, " "), *call(0, "f", "{}"), ContentDelta(0, "x"), finished()], True
)
def test_the_stream_is_the_whole_message(events, shows_thought):
    told, message = (
        stream(events, shows_thought=shows_thought),
        whole(events, shows_thought=shows_thought),
    )
    assert message["content"] == content(told)
    for field in ("stop_reason", "stop_sequence", "stop_details"):
        assert message[field] == told[-2]["delta"][field]
    for field, count in told[-2]["usage"].items():
        assert message["usage"][field] == count
    Message.model_validate_json(json.dumps(message), strict=True)


@given(scripts())
def test_no_text_is_lost(events):
    """Text and thoughts are those of the engine, but for blanks at the ends."""
    blocks = checked(stream(events))
    for kind, event in (("text", ContentDelta), ("thinking", ReasoningDelta)):
        sent = "".join(e.text for e in events if isinstance(e, event))
        told = "".join(b[kind] for b in blocks if b["type"] == kind)
        assert told.strip() == sent.strip()
        assert all(b[kind].strip() for b in blocks if b["type"] == kind)
