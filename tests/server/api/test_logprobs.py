"""Log probabilities, usage in every chunk, and messages to go on with, in chats."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.engine.events import (
    ContentDelta,
    ReasoningDelta,
    Started,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
)


def token(text, logprob=-0.5, *others):
    top = tuple(TopLogprob(o, o.encode(), -1.0, i) for i, o in enumerate(others))
    return TokenLogprob(text, text.encode(), logprob, 1, top)


def chunks(response):
    assert response.status_code == 200, response.text
    frames = [part.removeprefix("data: ") for part in response.text.split("\n\n")[:-1]]
    assert frames.pop() == "[DONE]"
    for frame in frames:
        ChatCompletionChunk.model_validate_json(frame, strict=True)
    return [json.loads(frame) for frame in frames]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({}, None),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logprobs": True}, 0),
        ({"logprobs": True, "top_logprobs": None}, 0),
        ({"logprobs": True, "top_logprobs": 20}, 20),
    ],
)
def test_asked_for(served, fields, count):
    assert served.request(**fields).logprobs == count


SCRIPT = [
    Started(3, 0),
    ReasoningDelta(0, "hm"),
    ContentDelta(0, "", (TokenLogprob("�", b"\xf0\x9f\x97", -0.1, 9),)),
    ContentDelta(0, "🗼!", (TokenLogprob("�", b"\xbc", -0.2, 8), token("!", float("-inf"), "?"))),
]


def test_whole(served, scripts):
    served.engine.script = [*SCRIPT, scripts.finished()]
    response = served.chat(logprobs=True, top_logprobs=1)
    ChatCompletion.model_validate_json(response.text, strict=True)
    told = response.json()["choices"][0]["logprobs"]
    assert told["refusal"] is None
    first, second, third = told["content"]
    assert first == {
        "token": "�", "logprob": -0.1, "bytes": [0xF0, 0x9F, 0x97], "top_logprobs": [],
    }  # fmt: skip
    assert bytes(first["bytes"] + second["bytes"]).decode() == "🗼"
    assert third["logprob"] == -9999.0
    assert third["top_logprobs"] == [{"token": "?", "logprob": -1.0, "bytes": [63]}]


def test_streamed(served, scripts):
    served.engine.script = [*SCRIPT, scripts.finished()]
    parts = chunks(served.chat(logprobs=True, stream=True))
    told = [part["choices"][0]["logprobs"] for part in parts]
    entries = [entry for item in told if item for entry in item["content"]]
    assert [entry["token"] for entry in entries] == ["�", "�", "!"]
    assert told[:2] == [None, None]


def test_not_asked_for_is_null(served, scripts):
    served.engine.script = [*SCRIPT, scripts.finished()]
    assert served.chat().json()["choices"][0]["logprobs"] is None


def test_usage_in_every_chunk(served, scripts):
    served.engine.script = [
        Started(11, 7),
        ReasoningDelta(0, "a", tokens=2),
        ContentDelta(0, "b", tokens=5),
        ContentDelta(1, "b", tokens=1),
        ToolCallDelta(0, 0, "c", "f", "{}", tokens=9),
        scripts.finished(0, completion_tokens=10),
        scripts.finished(1, completion_tokens=3),
    ]
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = chunks(served.chat(n=2, stream=True, stream_options=options))
    counts = [part["usage"]["completion_tokens"] for part in parts]
    assert counts == [0, 0, 2, 5, 6, 10, 11, 13, 13]
    assert all(part["usage"]["prompt_tokens"] == 11 for part in parts)
    assert all(
        part["usage"]["total_tokens"] == 11 + count
        for part, count in zip(parts, counts, strict=True)
    )
    assert parts[-1]["choices"] == []


@pytest.mark.parametrize("options", [None, {"continuous_usage_stats": True}])
def test_no_usage_where_it_was_not_asked_for(served, options):
    parts = chunks(served.chat(stream=True, stream_options=options))
    assert all("usage" not in part for part in parts)


OPEN = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "Once"}]


@pytest.mark.parametrize("flag", [None, False])
def test_a_message_to_go_on_with(served, flag):
    request = served.request(messages=OPEN, continue_final_message=True, add_generation_prompt=flag)
    assert request.continue_final
    assert request.messages[-1] == {"role": "assistant", "content": "Once"}
    assert not served.request(messages=OPEN).continue_final


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"continue_final_message": True, "messages": OPEN[:1]}, "continue_final_message"),
        (
            {
                "continue_final_message": True,
                "messages": [
                    OPEN[0],
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
                ],
            },
            "continue_final_message",
        ),
    ],
)
def test_nothing_to_go_on_with(served, fields, param):
    response = served.chat(**{"messages": OPEN, **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
def test_echo_of_the_message_gone_on_with(served, scripts, stream):
    served.engine.script = [Started(1, 0), ContentDelta(0, " upon"), scripts.finished()]
    response = served.chat(messages=OPEN, continue_final_message=True, echo=True, stream=stream)
    if stream:
        deltas = [part["choices"][0]["delta"] for part in chunks(response)]
        assert "".join(delta.get("content", "") for delta in deltas) == "Once upon"
    else:
        assert response.json()["choices"][0]["message"]["content"] == "Once upon"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
DELTAS = st.one_of(
    st.builds(lambda t: ("reasoning", t), TEXT),
    st.builds(lambda t: ("content", t), TEXT),
    st.builds(lambda i, t: ("call", i, t), st.integers(0, 2), TEXT),
)


def events(deltas, choice, scripts):
    opened = set()
    for kind, *rest in deltas:
        if kind == "reasoning":
            yield ReasoningDelta(choice, rest[0])
        elif kind == "content":
            yield ContentDelta(choice, rest[0], (token(rest[0]),))
        else:
            index, text = rest
            first = index not in opened
            opened.add(index)
            name, call_id = (f"f{index}", f"call_{index}") if first else (None, None)
            yield ToolCallDelta(choice, index, call_id, name, text)
    yield scripts.finished(choice, "tool_calls" if opened else "stop")


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(DELTAS, max_size=8), st.lists(DELTAS, max_size=8))
def test_chunks_join_to_the_whole(served, scripts, first, second):
    both = [list(events(deltas, i, scripts)) for i, deltas in enumerate((first, second))]
    served.engine.script = [Started(1, 0), *both[0], *both[1]]
    whole = served.chat(n=2, logprobs=True).json()["choices"]
    parts = chunks(served.chat(n=2, logprobs=True, stream=True))
    for index, choice in enumerate(whole):
        mine = [c for part in parts for c in part["choices"] if c["index"] == index]
        deltas = [c["delta"] for c in mine]
        message = choice["message"]
        content = "".join(delta.get("content", "") for delta in deltas)
        assert content == (message["content"] or "")
        reasoning = "".join(delta.get("reasoning_content", "") for delta in deltas)
        assert reasoning == message.get("reasoning_content", "")
        calls = {}
        for call in (call for delta in deltas for call in delta.get("tool_calls", [])):
            if "id" in call:
                calls[call["index"]] = {"id": call["id"], "type": "function", "function": {
                    "name": call["function"]["name"], "arguments": ""}}  # fmt: skip
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        assert [calls[i] for i in sorted(calls)] == message.get("tool_calls", [])
        assert mine[-1]["finish_reason"] == choice["finish_reason"]
        told = [c["logprobs"]["content"] for c in mine if c["logprobs"]]
        assert [entry for item in told for entry in item] == choice["logprobs"]["content"]
