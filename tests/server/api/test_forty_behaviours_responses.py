"""Of the forty behaviours that clients need, those of the Responses dialect, by number."""

import contextlib
import json
import time
from pathlib import Path

import httpx
import pytest
from openai.types.responses import Response

from server.engine.errors import ContextOverflow, QueueFull, StepFailed
from server.engine.events import ContentDelta, Failed, ReasoningDelta, Started
from server.engine.request import GrammarSpec, Thinking, ToolChoice
from tests.server.api.response_events import checked, parsed

PATH = "/v1/responses"
CODEX = Path(__file__).parents[2] / "e2e" / "codex_request.json"
FUNCTION = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def post(served, **fields):
    return served.http.post(PATH, json={"input": "Hi", **fields})


def asked(served, **fields):
    """The engine's request that fields become."""
    response = post(served, **fields)
    assert response.status_code == 200, response.text
    return served.engine.requests[-1]


def test_06_system_and_developer_messages_anywhere(served):
    items = [
        {"role": "developer", "content": "Second."},
        {"role": "user", "content": "Hi"},
        {
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": "Third."}],
        },
    ]
    told = asked(served, instructions="First.", input=items).messages
    assert [m["role"] for m in told] == ["system", "system", "user", "system"]
    assert [m["content"] for m in told] == ["First.", "Second.", "Hi", "Third."]


def test_07_unknown_fields_tools_items_and_nulls(served, caplog):
    """All of a recorded request of Codex, and more."""
    body = json.loads(CODEX.read_text())
    body |= {"unheard_of": [1], "temperature": None, "text": None, "max_output_tokens": None}
    body["input"].append({"type": "unheard_of", "id": "x"})
    response = served.http.post(PATH, json=body)
    assert checked(parsed(response.text))["status"] == "completed"
    names = [tool["function"]["name"] for tool in served.engine.requests[-1].tools]
    assert "exec_command" in names
    assert "multi_agent_v1.spawn_agent" in names
    assert "web_search" not in names
    assert {"'web_search'", "'unheard_of'"} <= set(caplog.text.split())


def test_08_errors_have_openais_shape(served, launch):
    served.engine.refusal = QueueFull(3)
    keyed = launch(api_key="k")
    found = {
        400: served.http.post(PATH, content=b"{"),
        401: keyed.http.post(PATH, json={"input": "Hi"}),
        404: served.http.get(f"{PATH}/resp_x"),
        405: served.http.get(PATH),
        429: post(served, stream=True),
    }
    for status, response in found.items():
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_09_context_overflow_before_the_stream(served, stream):
    served.engine.refusal = ContextOverflow(4096, 5000, 100)
    response = post(served, stream=stream)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    assert "maximum context length is 4096 tokens" in error["message"]


@pytest.mark.parametrize("script", ["answer", "tool_answer"])
def test_10_stream_from_created_to_completed(served, scripts, script):
    """In order, numbered from 0, strictly of the SDK's types; as Codex asks for it."""
    served.engine.script = getattr(scripts, script)()
    response = served.http.post(PATH, json=json.loads(CODEX.read_text()))
    assert response.headers["content-type"].startswith("text/event-stream")
    told = parsed(response.text)
    final = checked(told)
    names = [event["type"] for event in told]
    assert names[:2] == ["response.created", "response.in_progress"]
    assert names[-1] == "response.completed"
    done = [e["item"] for e in told if e["type"] == "response.output_item.done"]
    assert done == final["output"]
    assert [item["type"] for item in done] == {
        "answer": ["reasoning", "message"],
        "tool_answer": ["function_call", "function_call"],
    }[script]
    assert final["usage"]["input_tokens"] == 11
    assert final["usage"]["output_tokens"] == 5
    assert final["usage"]["total_tokens"] == 16
    assert "[DONE]" not in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_12_leaving_ends_the_work(served, stream, silent):
    script = [Started(1, 0), *([60] if silent else [0.01, ContentDelta(0, "x")] * 6000)]
    served.engine.script = script
    body = {"input": "Hi", "stream": stream}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        served.http.stream("POST", PATH, json=body, timeout=0.5) as response,
    ):
        next(response.iter_bytes())
    assert served.engine.streams[0].cancelled.wait(1.0)


def test_13_calls_and_results_of_a_history(served):
    items = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": []},
        {"type": "function_call", "call_id": "a", "name": "get_weather", "arguments": '{"c": 1}'},
        {"type": "function_call", "call_id": "b", "name": "get_weather", "arguments": ""},
        {"type": "function_call_output", "call_id": "b", "output": "two"},
        {
            "type": "function_call_output",
            "call_id": "a",
            "output": [{"type": "input_text", "text": "one"}],
        },
    ]
    _, turn, *results = asked(served, input=items).messages
    assert turn["content"] == ""
    assert [c["function"]["arguments"] for c in turn["tool_calls"]] == [{"c": 1}, {}]
    assert [(m["tool_call_id"], m["content"]) for m in results] == [("a", "one"), ("b", "two")]


SEALED = ["reasoning.encrypted_content"]


@pytest.mark.parametrize("way", ["echoed", "sealed", "summary", "previous", "reference"])
def test_14_reasoning_items_become_the_same_messages(served, way):
    """Whatever a client sends back; the prompt cache is tested with the demo, in tests/e2e."""
    fields = {"include": SEALED, "reasoning": {"summary": "auto"}, "store": way[0] in "pr"}
    first = post(served, **fields).json()
    thought, message = first["output"]
    sent = {
        "echoed": {key: thought[key] for key in ("id", "type", "summary", "content")},
        "sealed": {**thought, "summary": [], "content": None},
        "summary": {"type": "reasoning", "summary": thought["summary"]},
        "reference": {"type": "item_reference", "id": thought["id"]},
    }.get(way)
    question = {"role": "user", "content": "And?"}
    if way == "previous":
        follow = {"input": [question], "previous_response_id": first["id"]}
    else:
        follow = {"input": [{"role": "user", "content": "Hi"}, sent, message, question]}
    assert asked(served, **follow).messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Paris. 🗼", "reasoning_content": "France, so Paris."},
        {"role": "user", "content": "And?"},
    ]


def test_14_a_seal_of_another_key_is_not_read(served):
    fields = {"input": "Hi", "include": SEALED, "store": False}
    other = served.http.post(PATH, json=fields, headers={"authorization": "Bearer other"}).json()
    thought, message = other["output"]
    items = [{"role": "user", "content": "Hi"}, {**thought, "content": []}, message]
    turn = asked(served, input=items).messages[-1]
    assert turn == {"role": "assistant", "content": "Paris. 🗼"}


def test_15_usage(served, scripts):
    usage = post(served).json()["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 7, "cache_write_tokens": 0}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2, "thinking_cut": False}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_16_max_output_tokens_leave_it_incomplete(served, scripts, stream):
    served.engine.script = [*scripts.answer()[:-1], scripts.finished(reason="length")]
    response = post(served, max_output_tokens=5, stream=stream)
    told = checked(parsed(response.text)) if stream else response.json()
    assert served.engine.requests[-1].max_tokens == 5
    assert told["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in told["output"]] == ["completed", "incomplete"]
    assert told["usage"]["output_tokens"] == 5
    assert asked(served, max_output_tokens=None).max_tokens is None


BUDGETS = {"minimal": 256, "low": 1024, "medium": 4096, "high": 16384, "xhigh": None, "max": None}


def test_17_effort(served):
    for effort, budget in BUDGETS.items():
        assert asked(served, reasoning={"effort": effort}).thinking == Thinking(budget=budget)
    assert not asked(served, reasoning={"effort": "none", "summary": "auto"}).thinking.enabled
    assert asked(served, reasoning=None).thinking == Thinking()
    error = post(served, reasoning={"effort": "huge"}).json()["error"]
    assert error["param"] == "reasoning.effort"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ("auto", ToolChoice()),
        (None, ToolChoice()),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "get_weather"}, ToolChoice("required", ("get_weather",))),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "get_weather"}],
            },
            ToolChoice("auto", ("get_weather",)),
        ),
    ],
)
def test_18_tool_choice(served, choice, told):
    """What is chosen is called: tested with the demo, in tests/e2e."""
    assert asked(served, tools=[FUNCTION], tool_choice=choice).tool_choice == told


def test_19_text_format(served):
    schema = {"type": "object"}
    form = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    for given in (form, {**form, "strict": None}):
        request = asked(served, text={"format": given}, reasoning={"effort": "low"})
        assert request.grammar == GrammarSpec("json_schema", schema, "text.format.schema")
        assert request.thinking.enabled
    assert asked(served, text={"format": {"type": "json_object"}}).grammar.kind == "json_object"


@pytest.mark.parametrize("silence", ["queued", "prefill", "call"])
def test_20_a_data_event_in_every_silence(served, scripts, silence):
    """The served ping interval is 0.2 s."""
    script = scripts.tool_answer()
    at = {"queued": 0, "prefill": 1, "call": 3}[silence]
    served.engine.script = [*script[:at], 0.9, *script[at:]]
    began = time.monotonic()
    arrived = []
    with served.http.stream("POST", PATH, json={"input": "Hi", "stream": True}) as response:
        text = ""
        for line in response.iter_lines():
            text += f"{line}\n"
            if line.startswith("event: "):
                arrived.append((line.removeprefix("event: "), time.monotonic() - began))
    names = [name for name, _ in arrived]
    assert names.count("response.in_progress") >= 4  # one belongs to every stream
    assert checked(parsed(text))["status"] == "completed"
    assert dict(arrived[::-1])["response.created"] < 0.8


def test_23_keys(served, launch):
    keyed = launch(api_key="k")
    for headers in ({"x-api-key": "k"}, {"authorization": "Bearer k"}):
        response = keyed.http.post(PATH, json={"input": "Hi"}, headers=headers)
        assert response.status_code == 200
    assert served.http.post(PATH, json={"input": "Hi"}, headers={"x-api-key": "any"}).is_success


@pytest.mark.parametrize("stream", [{}, {"stream": None}, {"stream": False}])
def test_24_whole_by_default(served, stream):
    response = post(served, **stream)
    assert response.headers["content-type"] == "application/json"
    Response.model_validate_json(response.text, strict=True)


def test_25_parallel_calls(served, scripts):
    served.engine.script = scripts.tool_answer()
    output = checked(parsed(post(served, stream=True).text))["output"]
    assert [(c["call_id"], c["name"]) for c in output] == [
        ("call_a", "get_weather"),
        ("call_b", "get_time"),
    ]
    assert len({call["id"] for call in output}) == 2
    request = asked(served, tools=[FUNCTION], parallel_tool_calls=False)
    assert not request.tool_choice.parallel


def test_27_parts(served):
    parts = [
        {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "text", "text": "b"},
        {"type": "output_text", "text": "c", "annotations": []},
    ]
    assert asked(served, input=[{"role": "user", "content": parts}]).messages[0]["content"] == "abc"
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}
    for part in (image, {"type": "input_file", "file_id": "f"}, {"type": "input_audio"}):
        items = [{"role": "user", "content": [parts[0], part]}]
        response = post(served, input=items)
        assert response.status_code == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("unsupported_content", "input[0].content[1]")
        assert part["type"] in error["message"]


def test_28_a_failure_in_mid_stream_is_response_failed(served):
    failure = Failed(StepFailed("broken"))
    served.engine.script = [Started(1, 0), ReasoningDelta(0, "Hm"), failure]
    told = parsed(post(served, stream=True).text)
    response = checked(told)
    assert told[-1]["type"] == "response.failed"
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert response["error"]["message"] == "broken"
    whole = post(served)
    assert (whole.status_code, whole.json()["error"]["code"]) == (500, "step_failed")


def test_30_characters_are_whole(served):
    text = post(served, stream=True).text
    assert checked(parsed(text))["output"][1]["content"][0]["text"] == "Paris. 🗼"
    assert "🗼" in text


@pytest.mark.parametrize("stream", [False, True])
def test_31_a_full_queue(served, stream):
    served.engine.refusal = QueueFull(3)
    response = post(served, stream=stream)
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")


def test_36_noise_does_not_reach_the_prompt(served):
    body = json.loads(CODEX.read_text())
    for nonce in ("a1", "b2"):
        body["client_metadata"] = {"turn_id": nonce}
        body["prompt_cache_key"] = nonce
        served.http.post(PATH, json=body, headers={"session-id": "s", "x-request-id": nonce})
    one, other = served.engine.requests
    assert (one.messages, one.tools) == (other.messages, other.tools)
    assert (one.session, other.session) == ("a1", "b2")


def test_37_stored_responses(served):
    """previous_response_id, store, include and GET; more of it in test_responses_later.py."""
    first = post(served).json()
    assert served.http.get(f"{PATH}/{first['id']}").json() == first
    second = asked(served, previous_response_id=first["id"], store=False)
    assert [m["role"] for m in second.messages] == ["user", "assistant", "user"]
    unknown = post(served, previous_response_id="resp_x")
    assert unknown.status_code == 400
    assert unknown.json()["error"] == {
        "message": "Previous response with id 'resp_x' not found: it was not stored, or is no "
        "longer.",
        "type": "invalid_request_error",
        "param": "previous_response_id",
        "code": "previous_response_not_found",
    }
    sealed = post(served, include=SEALED).json()["output"][0]
    assert sealed["encrypted_content"]


def test_40_ids(served):
    ids = set()
    for stream in (False, True):
        response = post(served, stream=stream)
        told = parsed(response.text) if stream else [{"response": response.json()}]
        responses = [event["response"] for event in told if "response" in event]
        assert len({(r["id"], r["created_at"], r["model"]) for r in responses}) == 1
        assert responses[0]["id"].startswith("resp_")
        ids |= {responses[0]["id"], response.headers["x-request-id"]}
    assert len(ids) == 4
