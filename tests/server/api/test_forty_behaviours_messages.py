"""Of the forty behaviours that clients need, those of Anthropic's dialect, by number."""

import contextlib
import dataclasses
import json
import time

import httpx
import pytest
from anthropic.types import ErrorResponse, RawMessageStreamEvent
from pydantic import TypeAdapter

from server.engine.errors import QueueFull, StepFailed
from server.engine.events import ContentDelta, Failed, Started

HI = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
STRICT = TypeAdapter(RawMessageStreamEvent)


def frames(response):
    """Name and data of every event."""
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def post(served, **fields):
    return served.http.post("/v1/messages", json={**HI, **fields})


def test_06_system_messages_anywhere(served):
    texts = ["First.", "Second.", "Third."]
    messages = [
        {"role": "system", "content": texts[1]},
        *HI["messages"],
        {"role": "system", "content": [{"type": "text", "text": texts[2]}]},
    ]
    assert post(served, system=texts[0], messages=messages).status_code == 200
    told = served.engine.requests[-1].messages
    assert [m["content"] for m in told if m["role"] == "system"] == texts
    assert [m["role"] for m in told] == ["system", "system", "user", "system"]


def test_08_errors_have_anthropics_shape(served, launch):
    served.engine.refusal = QueueFull(3)
    keyed = launch(api_key="k")
    found = {
        400: served.http.post("/v1/messages", content=b"{"),
        401: keyed.http.post("/v1/messages", json=HI),
        404: served.http.get("/v1/messages/x"),
        405: served.http.get("/v1/messages"),
        429: post(served),
    }
    for status, response in found.items():
        assert response.status_code == status
        ErrorResponse.model_validate_json(response.text, strict=True)
        assert response.json()["error"]["message"]


@pytest.mark.parametrize("script", ["answer", "tool_answer"])
def test_11_stream_from_message_start_to_message_stop(served, scripts, script):
    served.engine.script = getattr(scripts, script)()
    response = post(served, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    told = list(frames(response))
    assert all(name == data["type"] for name, data in told)
    names = [name for name, _ in told if name != "ping"]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    assert {name.rpartition("_")[0] for name in names[1:-2]} == {"content_block"}
    for name, data in told:
        if name != "ping":
            STRICT.validate_json(json.dumps(data), strict=True)
    assert told[0][1]["message"]["usage"]["input_tokens"] == 4
    last = next(data for name, data in told if name == "message_delta")
    assert last["usage"]["output_tokens"] == 5
    reason = "end_turn" if script == "answer" else "tool_use"
    assert last["delta"]["stop_reason"] == reason


@pytest.mark.parametrize("stream", [False, True])
def test_12_leaving_ends_the_work(served, stream):
    served.engine.script = [Started(1, 0), *[0.01, ContentDelta(0, "x")] * 6000]
    body = {**HI, "stream": stream}
    with (
        contextlib.suppress(httpx.ReadTimeout),
        served.http.stream("POST", "/v1/messages", json=body, timeout=0.5) as response,
    ):
        next(response.iter_bytes())
    assert served.engine.streams[0].cancelled.wait(1.0)


def test_14_thinking_blocks_become_the_same_messages(served):
    """Echoed or dropped; the prompt cache is tested with the demo model, in tests/e2e."""
    body = post(served, thinking={"type": "adaptive"}).json()
    assert [block["type"] for block in body["content"]] == ["thinking", "text"]
    turn = {"role": "assistant", "content": body["content"]}
    question = {"role": "user", "content": "And?"}
    post(served, messages=[*HI["messages"], turn, question])
    assert served.engine.requests[-1].messages[1] == {
        "role": "assistant",
        "content": "Paris. 🗼",
        "reasoning_content": "France, so Paris.",
    }
    turn["content"] = body["content"][1:]
    post(served, messages=[*HI["messages"], turn, question])
    assert "reasoning_content" not in served.engine.requests[-1].messages[1]


@pytest.mark.parametrize("silence", ["queued", "prefill", "call"])
def test_20_ping_events_in_every_silence(served, scripts, silence):
    """The served ping interval is 0.2 s."""
    script = scripts.tool_answer()
    at = {"queued": 0, "prefill": 1, "call": 3}[silence]
    served.engine.script = [*script[:at], 0.9, *script[at:]]
    began = time.monotonic()
    arrived = []
    with served.http.stream("POST", "/v1/messages", json={**HI, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                arrived.append((line.removeprefix("event: "), time.monotonic() - began))
    names = [name for name, _ in arrived]
    assert names.count("ping") >= 3
    assert names[-1] == "message_stop"
    started = dict(arrived[::-1])["message_start"]
    assert (started < 0.8) == (silence != "queued")
    if silence != "queued":
        assert names[:2] == ["message_start", "ping"]


def test_23_a_key_in_either_header(launch):
    served = launch(api_key="k")
    for headers in ({"x-api-key": "k"}, {"authorization": "Bearer k"}):
        response = served.http.post("/v1/messages", json=HI, headers=headers)
        assert response.status_code == 200
    refused = served.http.post("/v1/messages", json=HI, headers={"x-api-key": "other"})
    assert refused.json()["error"]["type"] == "authentication_error"


def test_28_a_failure_in_mid_stream_is_one_error_event(served):
    served.engine.script = [Started(1, 0), ContentDelta(0, "Par"), Failed(StepFailed("broken"))]
    told = list(frames(post(served, stream=True)))
    name, body = told[-1]
    assert name == "error"
    ErrorResponse.model_validate_json(json.dumps(body), strict=True)
    assert body["error"] == {"type": "api_error", "message": "broken"}
    assert [name for name, _ in told].count("error") == 1
    assert "message_stop" not in [name for name, _ in told]


@pytest.mark.parametrize("stream", [False, True])
def test_29_the_stop_sequence_is_told(served, scripts, stream):
    end = dataclasses.replace(scripts.finished(), stop="END")
    served.engine.script = [Started(1, 0), ContentDelta(0, "Par"), end]
    response = post(served, stop_sequences=["STOP", "END"], stream=stream)
    assert served.engine.requests[-1].stop == ("STOP", "END")
    assert '"stop_reason":"stop_sequence","stop_sequence":"END"' in response.text


def test_35_count_tokens_and_probes(served):
    """The scripted engine's tokens are the bytes of its prompt."""
    fields = {"messages": HI["messages"], "system": "Be brief."}
    counted = served.http.post("/v1/messages/count_tokens", json=fields)
    assert counted.json() == {"input_tokens": len("<system>Be brief.<user>Hi<answer>")}
    assert served.engine.requests == []
    for method, path in (("HEAD", "/"), ("GET", "/health"), ("HEAD", "/health")):
        assert httpx.request(method, f"{served.url}{path}").status_code == 200


def test_36_noise_does_not_reach_the_prompt(served):
    for nonce in ("a1", "b2"):
        header = f"x-anthropic-billing-header: cc_version=2.1.197; cch={nonce};"
        blocks = [{"type": "text", "text": text} for text in (header, "Be brief.")]
        user = json.dumps({"session_id": nonce})
        post(served, system=blocks, metadata={"user_id": user})
    one, other = served.engine.requests
    assert one.messages == other.messages
    assert one.messages[0] == {"role": "system", "content": "Be brief."}
    assert (one.session, other.session) == ("a1", "b2")


def test_40_ids(served):
    ids = set()
    for stream in (False, True):
        response = post(served, stream=stream)
        assert response.headers["x-request-id"] == response.headers["request-id"]
        told = next(frames(response))[1]["message"] if stream else response.json()
        assert told["id"].startswith("msg_")
        ids |= {told["id"], response.headers["request-id"]}
    assert len(ids) == 4
