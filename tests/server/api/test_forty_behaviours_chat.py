"""What clients need of chats and completions, by the numbers of the list of forty behaviours: those
that the wire alone decides. The others are asked of the demo, in tests/e2e."""

import json
import re
from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.engine.errors import ContextOverflow, Draining, OutOfMemory, QueueFull, StepFailed
from server.engine.events import ContentDelta, Started
from server.engine.request import Thinking, ToolChoice

HI: list[Any] = [{"role": "user", "content": "Hi"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize")


def chunks(response):
    assert response.status_code == 200, response.text
    frames = [part.removeprefix("data: ") for part in response.text.split("\n\n")[:-1]]
    assert frames.pop() == "[DONE]"
    for frame in frames:
        ChatCompletionChunk.model_validate_json(frame, strict=True)
    return [json.loads(frame) for frame in frames]


def by_the_helper(served):
    """The message as the SDK's own helper joins it."""
    with (
        OpenAI(base_url=f"{served.url}/v1", api_key="x") as client,
        client.chat.completions.stream(model="q", messages=HI) as stream,
    ):
        return stream.get_final_completion().choices[0].message


def error_of(response, status):
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


def test_01_role_first_and_done_last(served):
    response = served.chat(stream=True)
    parts = chunks(response)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert response.text.endswith("data: [DONE]\n\n")
    message = by_the_helper(served)
    assert (message.role, message.content) == ("assistant", "Paris. 🗼")


def test_02_tool_deltas_have_an_index_and_id_and_name_once(served, scripts):
    served.engine.script = scripts.tool_answer()
    deltas = [
        call
        for part in chunks(served.chat(stream=True))
        for call in part["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert all(type(delta["index"]) is int for delta in deltas)
    for index in (0, 1):
        first, *rest = [delta for delta in deltas if delta["index"] == index]
        assert first["id"]
        assert first["type"] == "function"
        assert first["function"]["name"]
        assert all(set(delta) == {"index", "function"} for delta in rest)
        assert all(set(delta["function"]) == {"arguments"} for delta in rest)
        json.loads("".join(d["function"]["arguments"] for d in [first, *rest]))
    calls = by_the_helper(served).tool_calls
    assert calls is not None
    assert [(call.id, call.function.name) for call in calls] == [
        ("call_a", "get_weather"),
        ("call_b", "get_time"),
    ]


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
def test_03_finish_reason_whole_and_streamed(served, scripts, reason):
    script = scripts.tool_answer() if reason == "tool_calls" else scripts.answer()
    served.engine.script = [*script[:-1], scripts.finished(reason=reason)]
    assert served.chat().json()["choices"][0]["finish_reason"] == reason
    assert chunks(served.chat(stream=True))[-1]["choices"][0]["finish_reason"] == reason


def test_05_reasoning_under_one_name_only(served):
    message = served.chat().json()["choices"][0]["message"]
    assert message["reasoning_content"] == "France, so Paris."
    assert "reasoning" not in message
    deltas = [part["choices"][0]["delta"] for part in chunks(served.chat(stream=True))]
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "France, so Paris."
    assert not any("reasoning" in delta for delta in deltas)
    assert not any(delta.get("content") and "reasoning_content" in delta for delta in deltas)


def test_06_system_and_developer_messages_anywhere(served):
    wire = [
        {"role": "developer", "content": "one"},
        {"role": "system", "content": [{"type": "text", "text": "two"}]},
        *HI,
        {"role": "developer", "content": "three"},
        {"role": "assistant", "content": "ok"},
        {"role": "system", "content": "four"},
        *HI,
    ]
    told = served.request(messages=wire).messages
    texts = [message["content"] for message in told if message["role"] == "system"]
    assert texts == ["one", "two", "three", "four"]


def test_07_unknown_fields_and_tools_and_nulls_are_ignored(served):
    extra = {"zzz": {"deep": [1]}, "client_metadata": {}, "include": ["x"], "min_tokens": "5"}
    tools = [TOOL, {"type": "web_search"}, {"type": "custom", "name": "x"}, {"type": "mcp"}]
    nulls = dict.fromkeys(["tools", "temperature", "stop", "logprobs", "response_format"])
    assert served.request(**extra, tools=tools).tools == [TOOL]
    assert served.request(**extra, **nulls) == served.request()
    body = {"prompt": "x", **extra, "suffix": None, "best_of": None}
    assert served.http.post("/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_08_errors_have_one_shape(served, path):
    for body in (b"", b"{", b"[]", b'"x"', b"null", b'{"model": 5, "messages": [{}], "prompt": 5}'):
        error_of(served.http.post(path, content=body), 400)
    error_of(served.http.get(path), 405)
    error_of(served.http.post(path + "/nothing", json={}), 404)
    large = {"prompt": "x" * 2_100_000}
    assert error_of(served.http.post(path, json=large), 413)["code"] == "request_too_large"
    packed = served.http.post(path, content=b"x", headers={"content-encoding": "gzip"})
    error_of(packed, 415)


@pytest.mark.parametrize(
    ("error", "status"), [(QueueFull(2), 429), (Draining(), 503), (OutOfMemory(), 507),
                          (StepFailed("x"), 500), (RuntimeError("secret"), 500)],
)  # fmt: skip
def test_08_failures_have_the_same_shape(served, error, status):
    served.engine.refusal = error
    assert "secret" not in error_of(served.chat(), status)["message"]
    error_of(served.http.post("/v1/completions", json={"prompt": "x"}), status)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", PATHS[:2])
def test_09_context_overflow_before_the_first_byte(served, path, stream):
    served.engine.refusal = ContextOverflow(4096, 5000)
    body = {"messages": HI, "prompt": "x", "stream": stream}
    error = error_of(served.http.post(path, json=body), 400)
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in error["message"]


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": []}])
def test_13_calls_and_results_in_the_history(served, content):
    wire = [
        *HI,
        {"role": "assistant", "tool_calls": [CALL], **content},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "r"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": "s"},
    ]
    _, answer, first, second = served.request(messages=wire).messages
    assert answer["content"] == ""
    assert answer["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert (first["content"], second["content"]) == ("r", "s")


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_14_reasoning_that_comes_back_is_part_of_the_prompt(served, name):
    wire = [*HI, {"role": "assistant", "content": "a", name: "because"}, *HI]
    assert served.request(messages=wire).messages[1]["reasoning_content"] == "because"


def test_15_usage(served):
    usage = served.chat().json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 7
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    assert all("usage" not in part for part in chunks(served.chat(stream=True)))
    parts = chunks(served.chat(stream=True, stream_options={"include_usage": True}))
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"] == usage
    assert all(part["usage"] is None for part in parts[:-1])


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 3, "max_completion_tokens": 9}, 9),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
    ],
)
def test_16_both_names_of_the_limit(served, fields, limit):
    assert served.request(**fields).max_tokens == limit


@pytest.mark.parametrize(
    ("fields", "enabled"),
    [
        *[({"reasoning_effort": effort}, effort != "none") for effort in
          ("none", "minimal", "low", "medium", "high", "xhigh", "max")],
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"effort": "high"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, True),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
    ],
)  # fmt: skip
def test_17_every_way_to_ask_for_thinking(served, fields, enabled):
    assert served.request(**fields).thinking.enabled is enabled
    assert served.request().thinking == Thinking()


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("required", ("f",))),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}},
            ToolChoice("auto", ("f",)),
        ),
    ],
)
def test_18_every_tool_choice(served, choice, meant):
    assert served.request(tools=[TOOL], tool_choice=choice).tool_choice == meant
    unknown = {"type": "function", "function": {"name": "unknown_one"}}
    response = served.chat(tools=[TOOL], tool_choice=unknown)
    assert "unknown_one" in error_of(response, 400)["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models?", "/v1/models/", "/models"])
def test_21_models(served, path):
    [card] = served.http.get(path).json()["data"]
    assert {"id", "object", "created", "owned_by", "max_model_len", "context_length"} <= set(card)
    assert served.http.get(f"/v1/models/{card['id']}").json() == card
    assert "/" in card["id"]
    assert error_of(served.http.get("/v1/models/other"), 404)["code"] == "model_not_found"


def test_22_any_model_name_is_served_unless_names_are_strict(served, launch):
    assert served.chat(model="gpt-5").json()["model"] == "served/name"
    strict = launch(strict_model=True)
    assert error_of(strict.chat(model="gpt-5"), 404)["code"] == "model_not_found"


def test_23_keys(served, launch):
    for headers in ({}, {"authorization": "Bearer any"}, {"x-api-key": "any"}):
        body = {"messages": HI}
        response = served.http.post("/v1/chat/completions", json=body, headers=headers)
        assert response.status_code == 200
    closed = launch(api_key="s3cret")
    for path in PATHS:
        error_of(httpx.post(closed.url + path, json={"messages": HI}), 401)


@pytest.mark.parametrize("fields", [{}, {"stream": None}, {"stream": False}])
def test_24_whole_json_unless_a_stream_is_asked_for(served, fields):
    response = served.chat(**fields)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["object"] == "chat.completion"


def test_25_parallel_calls(served, scripts):
    served.engine.script = scripts.tool_answer()
    calls = served.chat(tools=[TOOL]).json()["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls) == 2
    assert served.request(tools=[TOOL], parallel_tool_calls=False).tool_choice.parallel is False


def test_27_parts_of_content(served):
    parts = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "b"},
        {"type": "output_text", "text": "c"},
    ]
    assert served.request(messages=[{"role": "user", "content": parts}]).messages == [
        {"role": "user", "content": "abc"}
    ]
    for kind in ("image_url", "input_audio", "file", "video_url"):
        content = [{"type": kind, kind: {}}]
        error = error_of(served.chat(messages=[{"role": "user", "content": content}]), 400)
        assert error["param"] == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("stop", "stops"), [("a", ("a",)), (["a", "b", "c", "d", "e"], (*"abcde",))]
)
def test_29_stop_strings(served, stop, stops):
    assert served.request(stop=stop).stop == stops
    body = {"prompt": "x", "stop": stop}
    assert served.http.post("/v1/completions", json=body).status_code == 200
    assert served.engine.requests[-1].stop == stops


def test_31_a_full_queue_is_said_at_once(served):
    served.engine.refusal = QueueFull(7)
    response = served.chat()
    assert error_of(response, 429)["code"] == "queue_full"
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", 0, -1),
        ("top_p", 0.5, 1.5),
        ("top_k", 40, -2),
        ("min_p", 0.1, 2),
        ("presence_penalty", -2, -3),
        ("frequency_penalty", 2, 3),
        ("repetition_penalty", 1.1, 0),
        ("logit_bias", {"5": -100}, {"5": -101}),
        ("seed", 7, 2**64),
    ],
)
@pytest.mark.parametrize("path", PATHS[:2])
def test_32_sampling_fields_are_taken_or_refused(served, path, field, good, bad):
    body = {"messages": HI, "prompt": "x"}
    assert served.http.post(path, json={**body, field: good}).status_code == 200
    assert error_of(served.http.post(path, json={**body, field: bad}), 400)["param"] == field


def test_33_never_silently_wrong(served):
    assert error_of(served.chat(n=99), 400)["param"] == "n"
    assert error_of(served.chat(top_logprobs=5), 400)["param"] == "top_logprobs"
    assert error_of(served.chat(modalities=["audio"]), 400)["param"] == "modalities"
    for fields in ({"best_of": 3}, {"suffix": "x", "echo": True}, {"logprobs": 9}):
        response = served.http.post("/v1/completions", json={"prompt": "x", **fields})
        assert error_of(response, 400)["param"] in fields


def test_34_fields_that_clients_look_for(served):
    response = served.chat()
    ChatCompletion.model_validate_json(response.text, strict=True)
    body = response.json()
    assert body["system_fingerprint"]
    assert body["service_tier"] == "default"
    [choice] = body["choices"]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None
    assert choice["message"]["annotations"] == []


def test_38_completions(served, scripts):
    served.engine.script = [Started(1, 0), ContentDelta(0, "y"), scripts.finished()]
    for prompt in ("x", ["x", "y"], [1, 2], [[1], [2]]):
        response = served.http.post("/v1/completions", json={"prompt": prompt})
        Completion.model_validate_json(response.text, strict=True)
    body = {"prompt": "x", "suffix": "z", "stream": True, "stream_options": {"include_usage": True}}
    text = served.http.post("/v1/completions", json=body).text
    frames = [part.removeprefix("data: ") for part in text.split("\n\n")[:-1]]
    assert frames[-1] == "[DONE]"
    assert json.loads(frames[-2])["usage"]["total_tokens"] == 16
    error_of(served.http.post("/v1/embeddings", json={"input": "x"}), 404)


def test_40_ids(served):
    seen = set()
    for _ in range(2):
        response = served.chat(stream=True)
        heads = {(p["id"], p["created"], p["model"]) for p in chunks(response)}
        assert len(heads) == 1
        seen |= heads
        assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])
    assert len({head[0] for head in seen}) == 2
    assert len(served.http._transport._pool.connections) == 1
