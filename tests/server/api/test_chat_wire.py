"""The bytes and shapes of chat completions, over a real port."""

import json

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.engine.events import ContentDelta, Started


def frames(text):
    """The data frames of an SSE body, checking the framing on the way."""
    assert "\r" not in text
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    data = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in data)
    return [block.removeprefix("data: ") for block in data]


def chunks(response):
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    data = frames(response.text)
    assert data[-1] == "[DONE]"
    for text in data[:-1]:
        ChatCompletionChunk.model_validate_json(text, strict=True)
    return [json.loads(text) for text in data[:-1]]


def test_whole_answer(served):
    response = served.chat()
    assert response.headers["content-type"] == "application/json"
    ChatCompletion.model_validate_json(response.text, strict=True)
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "served/name"
    assert body["system_fingerprint"].startswith("mxserve-")
    [choice] = body["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Paris. 🗼",
        "refusal": None,
        "annotations": [],
        "reasoning_content": "France, so Paris.",
    }
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    assert body["usage"] == {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 7},
        "completion_tokens_details": {"reasoning_tokens": 2, "thinking_cut": False},
    }


def test_no_reasoning_field_without_reasoning(served, scripts):
    served.engine.script = [Started(1, 0), ContentDelta(0, "ok"), scripts.finished()]
    assert "reasoning_content" not in served.chat().json()["choices"][0]["message"]


def test_whole_tool_calls(served, scripts):
    served.engine.script = scripts.tool_answer()
    response = served.chat()
    ChatCompletion.model_validate_json(response.text, strict=True)
    [choice] = response.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first == {
        "id": "call_a",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
    }
    assert second["id"] == "call_b"


def test_stream(served):
    parts = chunks(served.chat(stream=True))
    assert len({(part["id"], part["created"], part["model"]) for part in parts}) == 1
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert all("role" not in delta for delta in deltas[1:])
    assert "".join(d.get("reasoning_content", "") for d in deltas) == "France, so Paris."
    assert "".join(d.get("content", "") for d in deltas) == "Paris. 🗼"
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(part["choices"][0]["finish_reason"] is None for part in parts[:-1])
    assert all("usage" not in part for part in parts)


def test_stream_ids_differ_between_requests(served):
    first, second = (chunks(served.chat(stream=True))[0]["id"] for _ in range(2))
    assert first != second


def test_stream_usage_is_last_and_alone(served):
    parts = chunks(served.chat(stream=True, stream_options={"include_usage": True}))
    assert parts[-1]["choices"] == []
    assert parts[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 7
    assert all(part["usage"] is None for part in parts[:-1])


def test_stream_tool_calls(served, scripts):
    served.engine.script = scripts.tool_answer()
    parts = chunks(served.chat(stream=True))
    calls = [call for part in parts for call in part["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0] == {
        "index": 0,
        "id": "call_a",
        "type": "function",
        "function": {"name": "get_weather", "arguments": ""},
    }
    assert calls[1] == {"index": 0, "function": {"arguments": '{"city": '}}
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_choices(served, scripts):
    served.engine.script = [
        Started(11, 0),
        ContentDelta(1, "b"),
        ContentDelta(0, "a"),
        scripts.finished(1),
        scripts.finished(0),
    ]
    body = served.chat(n=2).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["a", "b"]
    assert body["usage"]["prompt_tokens"] == 11
    assert body["usage"]["completion_tokens"] == 10
    parts = chunks(served.chat(n=2, stream=True))
    for index, text in enumerate("ab"):
        deltas = [
            part["choices"][0]["delta"] for part in parts if part["choices"][0]["index"] == index
        ]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == text


def test_null_stream_is_whole(served):
    assert served.chat(stream=None, stream_options=None).json()["object"] == "chat.completion"


def test_20_keep_alive_comments_while_silent(served, scripts):
    served.engine.script = [Started(11, 0), 0.7, *scripts.answer()[1:]]
    response = served.chat(stream=True)
    assert response.text.count(": ping\n\n") >= 2
    assert chunks(response)


def test_connection_is_reused_after_a_stream(served):
    for _ in range(3):
        chunks(served.chat(stream=True))
    pool = served.http._transport._pool
    assert len(pool.connections) == 1


def test_request_ids(served):
    first, second = served.chat(), served.chat(stream=True)
    assert first.headers["x-request-id"].startswith("req_")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    own = served.http.get("/health", headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    assert served.http.get("/nope").headers["x-request-id"]
