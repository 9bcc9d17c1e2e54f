"""Faults of the model fail the requests they hit, once each, and nothing else."""

import re

import httpx
import pytest

from tests.e2e.conftest import COUNT, FRANCE, LONG, wait_for

OVERFLOW = (
    r"This model's maximum context length is (\d+) tokens\. However, you requested (\d+) tokens "
    r"\((\d+) in the messages, (\d+) in the completion\)\. Please reduce .*"
)


@pytest.fixture(scope="module")
def _shared(start_faulty):
    return start_faulty()


@pytest.fixture
def server(_shared):
    """The shared server, without faults before and after."""
    yield _shared
    _shared.settle()


@pytest.fixture
def fresh(start_faulty):
    """A server of its own: two steps that raise within a minute are meant to end one."""
    return start_faulty()


def decoding(server, *texts, **fields):
    """Streams that are all in the middle of their answers."""
    server.arm("slow", 0.05)
    streams = [server.send(text, **fields) for text in texts]
    wait_for(lambda: all(stream.content for stream in streams))
    return streams


def test_a_step_that_raises_fails_its_requests_once_each(fresh):
    streams = decoding(fresh, COUNT, "Count from 1 to 19.")
    fresh.arm("step-error")
    for stream in streams:
        assert stream.end().failed
        assert stream.errors == ["step_failed"]
        assert "secret" not in stream.text
    fresh.disarm("slow")
    assert fresh.serves()
    assert fresh.health()["active"] == 0


def test_a_prefill_that_raises(fresh):
    fresh.arm("prefill-error")
    response = fresh.post(COUNT)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "step_failed")
    assert "secret" not in response.text
    assert fresh.serves()


def test_a_row_that_is_not_finite_fails_alone(server):
    texts = [COUNT, "Count from 1 to 19."]
    whole = {text: server.ask(text)["choices"][0]["message"]["content"] for text in texts}
    streams = decoding(server, *texts)
    server.arm("nan")
    [broken] = [stream for stream in streams if stream.end().errors]
    [other] = [stream for stream in streams if stream is not broken]
    assert broken.failed
    assert broken.errors == ["step_failed"]
    assert other.finished
    assert other.content == whole[other.body["messages"][0]["content"]]


def test_a_broken_prompt_is_a_miss_next_time(server):
    text = "Count from 1 to 7."
    server.arm("nan")
    response = server.post(text)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "step_failed")
    cached = [server.ask(text)["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in "12"]
    assert cached[0] == 0
    assert cached[1] > 0


@pytest.mark.parametrize("where", ["prefill", "step"])
def test_out_of_memory_is_tried_again(server, where):
    assert server.serves()
    server.arm(f"{where}-memory")
    answer = server.post(FRANCE + " ")
    assert answer.status_code == 200, answer.text
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert server.serves()


def test_out_of_memory_in_taking_up_what_is_cached(server):
    assert server.serves()
    server.arm("restore-memory")
    answer = server.ask()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("hours", [8, -1])
def test_a_clock_that_jumps_ends_nothing_and_has_the_engine_test_itself(start_faulty, hours):
    server = start_faulty("--request-timeout", "300")
    [stream] = decoding(server, COUNT)
    server.arm("clock", hours * 3600)
    wait_for(lambda: "the engine tests itself" in server.server.output)
    server.disarm("slow")
    assert stream.end().finished
    assert server.serves()
    assert server.health()["status"] == "ok"


@pytest.mark.parametrize("where", ["prefill", "step"])
def test_out_of_memory_for_good_is_a_507(server, where):
    server.arm(f"{where}-memory", 1000)
    response = server.post(COUNT)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "out_of_memory")
    server.disarm(f"{where}-memory")
    assert server.serves()
    assert server.health()["status"] == "ok"


def test_out_of_memory_in_the_middle_of_streams(server):
    """Those that can go on do; those that cannot are told; none is cut."""
    streams = decoding(server, COUNT, "Count from 1 to 19.")
    server.arm("step-memory")
    for stream in streams:
        stream.end()
        assert stream.finished or (stream.failed and stream.errors == ["out_of_memory"])
    server.disarm("slow")
    assert server.serves()


def test_a_context_overflow_is_told_before_the_stream_opens(server):
    [card] = httpx.get(f"{server.server.url}/v1/models").json()["data"]
    limit, before = card["context_length"], server.calls()
    for stream in (False, True):
        response = server.post("word " * limit, stream=stream, max_tokens=7)
        assert response.status_code == 400
        assert response.headers["content-type"] == "application/json"
        error = response.json()["error"]
        assert (error["type"], error["code"]) == (
            "invalid_request_error",
            "context_length_exceeded",
        )
        told = re.fullmatch(OVERFLOW, error["message"])
        assert told, error["message"]
        most, wanted, prompt, completion = map(int, told.groups())
        assert (most, wanted, completion) == (limit, prompt + 7, 7)
    assert server.calls() == before


@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_a_request_has_a_time_limit(start_faulty, phase):
    server = start_faulty("--max-batch", "1", "--request-timeout", "2")
    server.arm("slow", 0.3)
    text = LONG if phase == "prefill" else COUNT
    readings = [server.send(text)]
    if phase == "queue":
        wait_for(lambda: server.busy() == 1)
        readings.append(server.send("Hello", stream=False))
    for reading in readings:
        assert reading.end(6).failed
        assert reading.errors == ["timeout"]
    assert readings[-1].status == (504 if phase == "queue" else 200)
    server.disarm("slow")
    wait_for(lambda: server.busy() == 0, 3)
    assert server.serves()
