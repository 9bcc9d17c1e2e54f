"""Streams of response events: in order, strictly of the SDK's types, and in sum the response."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.responses import Response

from model.sampling import SamplingParams
from server.api.responses_items import Form
from server.api.responses_resource import Resource
from server.api.responses_running import Silence
from server.api.responses_schema import parse_responses
from server.api.responses_wire import Frames, Lifecycle, Whole
from server.engine.errors import ContextOverflow, OutOfMemory, QueueFull, StepFailed
from server.engine.events import (
    CacheReport,
    ContentDelta,
    PrefillProgress,
    ReasoningDelta,
    Started,
    TokenLogprob,
    TopLogprob,
)
from server.engine.request import ToolChoice
from tests.server.api.response_events import call, checked, finished, parsed

ID = f"resp_{'0123456789abcdef' * 2}"
START = [Started(11, 7, CacheReport(reused=7, prefilled=4, common=8)), PrefillProgress(11, 11)]


def lifecycle(form=None, **fields):
    asked = parse_responses({"input": "Hi", **fields})
    resource = Resource(ID, "m", asked, SamplingParams(), ToolChoice(), stored=True)
    return Lifecycle(resource, form or Form())


def stream(events, form=None, **fields):
    frames = Frames(lifecycle(form, **fields), 1000)
    told = [frame for event in events for frame in frames.add(event)]
    assert frames.complete
    return parsed([*told, *frames.closing()])


def whole(events, form=None):
    made = Whole(lifecycle(form))
    for event in events:
        made.add(event)
    assert made.complete
    return made.json()


def kinds(response):
    return [item["type"] for item in response["output"]]


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
    told = stream(events, Form(summary=True))
    response = checked(told)
    assert kinds(response) == ["reasoning", "message", "function_call", "function_call"]
    thought, message, *calls = response["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm, "}]
    assert thought["summary"] == [{"type": "summary_text", "text": "Hm, "}]
    part = {"type": "output_text", "text": "\n\nLet me see.", "annotations": [], "logprobs": []}
    assert (message["role"], message["content"]) == ("assistant", [part])
    assert [(c["call_id"], c["name"], c["arguments"]) for c in calls] == [
        ("call_0", "f", '{"a": 1}'),
        ("call_1", "g", "{}"),
    ]
    assert {item["status"] for item in response["output"]} == {"completed"}
    assert (response["status"], response["error"]) == ("completed", None)
    names = [event["type"].removeprefix("response.") for event in told]
    assert names[2:12] == [
        "output_item.added",
        "content_part.added",
        "reasoning_summary_part.added",
        *["reasoning_text.delta", "reasoning_summary_text.delta"] * 2,
        "reasoning_text.done",
        "content_part.done",
        "reasoning_summary_text.done",
    ]


def test_ids_lead_to_their_response():
    events = [*START, ReasoningDelta(0, "Hm"), ContentDelta(0, "x"), *call(0, "f", "{}")]
    response = checked(stream([*events, finished()]))
    own = ID.removeprefix("resp_")
    assert [item["id"] for item in response["output"]] == [
        f"rs_{own}0000",
        f"msg_{own}0001",
        f"fc_{own}0002",
    ]


def test_usage_and_the_caches_report():
    response = checked(stream([*START, ContentDelta(0, "x"), finished(thinking_cut=True)]))
    assert response["usage"] == {
        "input_tokens": 11,
        "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4, "thinking_cut": True},
        "total_tokens": 20,
    }
    assert response["x_mxserve"]["cache"]["reused_tokens"] == 7


def test_too_few_tokens_leave_it_incomplete():
    events = [*START, ReasoningDelta(0, "Hm"), ContentDelta(0, "Par"), finished("length")]
    told = stream(events)
    response = checked(told)
    assert told[-1]["type"] == "response.incomplete"
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert response["usage"]["output_tokens"] == 9
    assert response["completed_at"] is None


def test_a_call_that_was_cut_off_shows_what_there_is_of_it():
    response = checked(stream([*START, *call(0, "f", '{"a": "b'), finished("length")]))
    [cut] = response["output"]
    assert (cut["arguments"], cut["status"]) == ('{"a": "b', "incomplete")


def test_an_answer_of_nothing_is_an_empty_message():
    blank = [ReasoningDelta(0, "\n"), ContentDelta(0, ""), ContentDelta(0, "\n \n")]
    for events in ([*START, finished()], [*START, *blank, finished()]):
        assert kinds(checked(stream(events))) == ["message"]
    assert checked(stream([*START, *blank, finished("length")]))["output"] == []


def test_a_sealed_thought():
    form = Form(seal=lambda text: f"sealed {text}")
    told = stream([*START, ReasoningDelta(0, "Hm"), ContentDelta(0, "x"), finished()], form)
    [added] = [e for e in told if e["type"] == "response.output_item.added"][:1]
    assert "encrypted_content" not in added["item"]
    assert checked(told)["output"][0]["encrypted_content"] == "sealed Hm"
    [item] = checked(stream([*START, ReasoningDelta(0, "H"), finished("length")], form))["output"]
    assert (item["status"], item["encrypted_content"]) == ("incomplete", "sealed H")
    plain = checked(stream([*START, ReasoningDelta(0, "Hm"), finished()]))
    assert "encrypted_content" not in plain["output"][0]


def test_log_probabilities_go_with_their_text():
    tokens = [TokenLogprob(t, t.encode(), -0.5, 1, (TopLogprob("b", b"b", -1.0, 2),)) for t in "xy"]
    events = [
        *START,
        ContentDelta(0, " ", (tokens[0],)),
        ContentDelta(0, "y", (tokens[1],)),
        finished(),
    ]
    told = stream(events, Form(logprobs=True))
    [part] = checked(told)["output"][0]["content"]
    entry = {"token": "x", "logprob": -0.5, "bytes": [120]}
    assert part["logprobs"][0] == {
        **entry,
        "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": [98]}],
    }
    deltas = [e for e in told if e["type"] == "response.output_text.delta"]
    assert [p for e in deltas for p in e["logprobs"]] == part["logprobs"]
    assert checked(stream(events))["output"][0]["content"][0]["logprobs"] == []


def test_a_function_of_a_namespace_has_its_own_name():
    form = Form(namespaces={"geo.weather": ("geo", "weather")})
    told = stream([*START, *call(0, "geo.weather", "{}"), finished("tool_calls")], form)
    [item] = checked(told)["output"]
    assert (item["namespace"], item["name"]) == ("geo", "weather")
    [done] = [e for e in told if e["type"] == "response.function_call_arguments.done"]
    assert done["name"] == "weather"


@pytest.mark.parametrize(
    ("error", "code", "own"),
    [
        (StepFailed("broken"), "server_error", "step_failed"),
        (OutOfMemory("full"), "server_error", "out_of_memory"),
        (QueueFull(1), "rate_limit_exceeded", "queue_full"),
        (ContextOverflow(9, 8, None), "invalid_prompt", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("begun", [0, 1, 3])
def test_a_failure_ends_the_stream(error, code, own, begun):
    events = [Started(11, 7), ReasoningDelta(0, "Hm"), *call(0, "f", '{"a')]
    frames = Frames(lifecycle(), 1000)
    told = [frame for event in events[:begun] for frame in frames.add(event)]
    told = parsed([*told, *frames.failed(error)])
    response = checked(told)
    assert told[-1]["type"] == "response.failed"
    assert response["status"] == "failed"
    assert (response["error"]["code"], response["error"]["type"]) == (code, own)
    assert response["error"]["message"] == str(error)
    assert [item["status"] for item in response["output"]] == [
        *["completed", "incomplete"][2 - len(response["output"]) :]
    ]


def test_nothing_follows_the_end():
    life = lifecycle()
    for event in [*START, ContentDelta(0, "x")]:
        list(life.add(event))
    life.cancel()
    assert list(life.add(ContentDelta(0, "y"))) == []
    life.fail(StepFailed("broken"))
    assert life.now()["status"] == "cancelled"
    assert life.now()["output"][0]["content"][0]["text"] == "x"
    assert life.now()["output"][0]["status"] == "incomplete"


def test_a_cancelled_stream_ends_as_incomplete():
    life = lifecycle()
    frames = Frames(life, 1000)
    told = [frame for event in [*START, ContentDelta(0, "x")] for frame in frames.add(event)]
    life.cancel()
    told = parsed([*told, *frames.closing()])
    assert checked(told)["status"] == "cancelled"
    assert told[-1]["type"] == "response.incomplete"


def test_silence_is_told_by_events():
    frames = Frames(lifecycle(), 0)  # every silence is long enough
    names = [[e["type"] for e in parsed(frames.add(Silence(0, 0)))] for _ in range(3)]
    progress = ["response.in_progress"]
    assert names == [["response.created", *progress], progress, progress]
    told = [frame for event in [*START, *call(0, "f")] for frame in frames.add(event)]
    told += frames.add(Silence(0, 0))
    last = parsed(told)[-1]
    assert last["type"] == "response.in_progress"
    assert [item["type"] for item in last["response"]["output"]] == ["function_call"]
    end = [*frames.add(finished("tool_calls")), *frames.closing()]
    assert parsed(end)[-1]["type"] == "response.completed"


def test_short_silences_are_not_told():
    frames = Frames(lifecycle(), 1000)
    for event in START:
        frames.add(event)
    assert frames.add(Silence(0, 0)) == []
    assert frames.add(PrefillProgress(3, 4)) == []


texts = st.text(st.sampled_from("ab \n🗼é"), max_size=3)
pieces = st.lists(texts, max_size=3)
parts = st.one_of(
    pieces.map(lambda found: [ReasoningDelta(0, text) for text in found]),
    pieces.map(lambda found: [ContentDelta(0, text) for text in found]),
    st.tuples(st.sampled_from(["f", "g"]), st.dictionaries(texts, texts), st.integers(0, 9)),
    st.just([Silence(0, 0)]),
)


@st.composite
def scripts(draw):
    """Engine events in any order: thoughts, texts, calls and silences; at the end perhaps cut."""
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
    if draw(st.booleans()):
        return [*events, finished("length")]
    return [*events, finished("tool_calls" if count else "stop")]


forms = st.builds(Form, summary=st.booleans(), seal=st.sampled_from([None, str.upper]))


@given(scripts(), forms)
@example(
    [*START, ContentDelta(0, " "), *call(0, "f", "{}"), ContentDelta(0, "x"), finished()], Form()
)
def test_the_stream_is_the_whole_response(events, form):
    response, in_one = checked(stream(events, form)), whole(events, form)
    for field in ("status", "output", "usage", "incomplete_details", "error", "x_mxserve"):
        assert response[field] == in_one[field]
    Response.model_validate_json(json.dumps(in_one), strict=True)


@given(scripts())
def test_no_text_is_lost(events):
    """Text and thoughts are those of the engine, but for blanks at the ends."""
    output = checked(stream(events))["output"]
    for kind, event in (("message", ContentDelta), ("reasoning", ReasoningDelta)):
        sent = "".join(e.text for e in events if isinstance(e, event))
        texts = [item["content"][0]["text"] for item in output if item["type"] == kind]
        assert "".join(texts).strip() == sent.strip()
