"""What the prompt cache did, told in a header and in the body, and when it can be told."""

import json
import time

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from server.api.cache_wire import cache_header
from server.engine.errors import OutOfMemory
from server.engine.events import CacheReport, ContentDelta, Failed, Started

HEADER = 'reused=7, prefilled=4, common=8, message=2, change="user message"'
FIELD = {
    "cache": {
        "reused_tokens": 7,
        "prefilled_tokens": 4,
        "common_tokens": 8,
        "diverged": {"message": 2, "change": "user message"},
    }
}
BODY = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


def chunks_of(response):
    lines = [line for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_whole_answer(served):
    response = served.chat()
    assert response.headers["x-mxserve-cache"] == HEADER
    assert response.json()["x_mxserve"] == FIELD
    ChatCompletion.model_validate_json(response.text, strict=True)


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_has_it_in_its_last_chunk(served, usage):
    response = served.chat(stream=True, stream_options={"include_usage": usage})
    assert response.headers["x-mxserve-cache"] == HEADER
    *others, last = chunks_of(response)
    assert last["x_mxserve"] == FIELD
    assert bool(last.get("usage")) is usage
    assert not any("x_mxserve" in chunk for chunk in others)
    for chunk in (*others, last):
        ChatCompletionChunk.model_validate(chunk, strict=True)


def test_several_choices_tell_it_once(served, scripts):
    script = [*scripts.answer(), ContentDelta(1, "Two"), scripts.finished(1)]
    served.engine.script = script
    *others, last = chunks_of(served.chat(stream=True, n=2))
    assert last["x_mxserve"] == FIELD
    assert not any("x_mxserve" in chunk for chunk in others)


@pytest.mark.parametrize(
    ("report", "header", "diverged"),
    [
        (CacheReport(0, 11, 0), "reused=0, prefilled=11, common=0", None),
        (
            CacheReport(3, 8, 9, None, "evicted"),
            'reused=3, prefilled=8, common=9, change="evicted"',
            {"message": None, "change": "evicted"},
        ),
    ],
)
def test_nothing_diverged(served, scripts, report, header, diverged):
    assert cache_header(report) == header
    served.engine.script = [Started(11, report.reused, report), scripts.finished()]
    assert served.chat().json()["x_mxserve"]["cache"]["diverged"] == diverged


def test_headers_do_not_wait_for_a_request_that_waits(served, scripts):
    """A request in the queue has its headers and its keep-alives; the last chunk has the rest."""
    served.engine.script = [0.9, *scripts.answer()]
    began = time.monotonic()
    with served.http.stream("POST", "/v1/chat/completions", json=BODY) as response:
        waited = time.monotonic() - began
        text = response.read().decode()
    assert waited < 0.7
    assert "x-mxserve-cache" not in response.headers
    assert text.index(": ping") < text.index("data: ")
    assert chunks_of(response)[-1]["x_mxserve"] == FIELD


def test_a_failure_before_the_headers_has_its_status(served):
    served.engine.script = [Failed(OutOfMemory())]
    response = served.chat(stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "out_of_memory")
    assert served.engine.streams[-1].cancelled.wait(1)


def test_leaving_before_the_headers_ends_the_work(served, scripts):
    served.engine.script = [60]
    with pytest.raises(httpx.ReadTimeout):
        served.http.post("/v1/chat/completions", json=BODY, timeout=0.1)
    assert served.engine.streams[-1].cancelled.wait(2)
    served.engine.script = scripts.answer()
    assert served.chat(stream=True).status_code == 200


def test_pages_of_allowed_origins_can_read_it(launch):
    served = launch(cors_origin=["https://app.example"])
    response = served.http.get("/v1/models", headers={"Origin": "https://app.example"})
    assert "x-mxserve-cache" in response.headers["access-control-expose-headers"]
