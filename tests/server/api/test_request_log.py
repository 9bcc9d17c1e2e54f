"""One line for each request, with its figures; ids; and never what people write."""

from __future__ import annotations

import asyncio
import logging
import re
import time

import pytest
from starlette.types import Message, Receive, Scope, Send

from server.engine.errors import QueueFull
from server.engine.events import ContentDelta, Started
from server.middleware import RequestId

SECRET = "what-nobody-may-read"


@pytest.fixture
def line(caplog):
    """The record of the request with this reply; it may come after its answer."""
    caplog.set_level(logging.INFO, "server.access")

    def found(reply):
        end = time.monotonic() + 5
        while True:
            records = [r for r in caplog.records if r.name == "server.access"]
            ours = [r for r in records if r.fields["id"] == reply.headers["x-request-id"]]
            if ours or time.monotonic() > end:
                [record] = ours
                return record
            time.sleep(0.01)

    return found


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_one_line_with_its_figures(served, line, stream):
    reply = served.chat(stream=stream)
    record = line(reply)
    assert re.fullmatch(r"POST /v1/chat/completions 200 \d+\.\d{3}s", record.getMessage())
    fields = record.fields
    assert 0 <= fields.pop("ttft_s") <= fields.pop("total_s")
    assert fields == {
        "status": 200,
        "id": reply.headers["x-request-id"],
        "route": "/v1/chat/completions",
        "model": "served/name",
        "prompt_tokens": 11,
        "cached_tokens": 7,
        "completion_tokens": 5,
        "queue_s": 0.0,
        "finish": "stop",
    }


def test_of_several_prompts_the_line_has_the_sum(served, line):
    record = line(served.http.post("/v1/completions", json={"prompt": ["a", "b"]}))
    assert record.fields["prompt_tokens"] == 22
    assert record.fields["completion_tokens"] == 10


def test_the_dialects_are_told_apart_and_refusals_have_their_code(served, line):
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}
    assert line(served.http.post("/v1/messages", json=body)).fields["route"] == "/v1/messages"
    served.engine.refusal = QueueFull(1)
    fields = line(served.http.post("/v1/responses", json={"input": "x"})).fields
    assert fields["route"] == "/v1/responses"
    assert (fields["status"], fields["finish"]) == (429, "queue_full")


@pytest.mark.parametrize("given", ["abc-1.2_x", "a" * 128])
def test_a_sane_id_is_kept(served, given):
    for path in ("/v1/models", "/nowhere", "/health", "/metrics"):
        reply = served.http.get(path, headers={"X-Request-Id": given})
        assert reply.headers["x-request-id"] == reply.headers["request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, 'x"y', "<script>", "x;y", "é"])
def test_another_id_is_replaced(served, given):
    headers = [(b"X-Request-Id", given.encode("latin-1"))]
    reply = served.http.get("/v1/models", headers=headers)
    assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])


def test_every_answer_has_an_id(served):
    reply = served.chat(stream=True)
    assert reply.headers["x-request-id"]
    assert served.http.get("/v1/models", headers={"Host": "evil"}).headers["x-request-id"]
    assert served.http.post("/v1/chat/completions", content="{").headers["x-request-id"]


@pytest.mark.parametrize(("address", "told"), [("192.0.2.7", "192.0.2.7"), ("::1", None)])
def test_another_machine_is_told_by_its_address(address, told):
    ended = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def nothing() -> Message:
        return {"type": "http.request"}

    async def taken(message: Message) -> None:
        assert message["status"] == 204

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": (address, 1)}
    asyncio.run(RequestId(answer, ended.append)(scope, nothing, taken))
    assert ended[0].fields().get("client") == told


def test_probes_are_told_of_only_where_they_fail(served, line):
    assert served.http.get("/health/live").status_code == 200
    assert served.http.get("/metrics").status_code == 200
    served.engine.status = "dead"
    record = line(served.http.get("/health"))
    assert (record.levelname, record.fields["status"]) == ("INFO", 503)


def test_a_probe_that_went_well_is_told_at_debug(served, line, caplog):
    caplog.set_level(logging.DEBUG, "server.access")
    assert line(served.http.get("/health/ready")).levelname == "DEBUG"


def test_nothing_that_people_write_is_logged(served, caplog):
    """Prompts, answers, keys, queries and headers, in good requests and in bad ones."""
    caplog.set_level(logging.DEBUG)
    served.engine.script = lambda request: [
        Started(1, 0), ContentDelta(0, SECRET), *([] if request.stop else [RuntimeError("broke")]),
    ]  # fmt: skip
    headers = {"Authorization": f"Bearer {SECRET}", "User-Agent": SECRET, "X-Session-Id": SECRET}
    for body in (
        {"messages": [{"role": "user", "content": SECRET}]},
        {"messages": [{"role": "user", "content": SECRET}], "stream": True, "user": SECRET},
        {"messages": [{"role": SECRET, "content": SECRET}]},
        {"messages": SECRET, "model": SECRET},
        {"messages": [{"role": "user", "content": "x"}], "stop": [SECRET]},
    ):
        served.http.post(f"/v1/chat/completions?key={SECRET}", json=body, headers=headers)
    told = caplog.text + "".join(
        f"{r.getMessage()} {getattr(r, 'fields', '')}"
        for r in caplog.records
        if not r.name.startswith(("httpx", "httpcore"))  # the client's own
    )
    ours = [r for r in caplog.records if r.name.startswith("server")]
    assert ours
    assert not [r for r in ours if SECRET in r.getMessage() + str(getattr(r, "fields", ""))], told


def test_prompts_are_logged_where_that_is_asked_for(launch, caplog):
    caplog.set_level(logging.INFO)
    served = launch(log_prompts=True)
    reply = served.http.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": SECRET}]}
    )
    [record] = [r for r in caplog.records if r.name == "server.metered"]
    assert SECRET in record.fields["prompt"]
    assert record.fields["id"] == reply.headers["x-request-id"]


def test_what_is_in_a_path_stays_one_line(served, line):
    text = line(served.http.get("/v1/models/%0d%0aFORGED%20line%1b[31m?x=%0a")).getMessage()
    assert text.isprintable()
    assert "%0D%0AFORGED%20line" in text.replace("%0d%0a", "%0D%0A")
    assert "?" not in text
