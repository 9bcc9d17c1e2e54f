"""Every failure has a fitting status and OpenAI's shape."""

import json
import socket

import httpx
import pytest

from server.engine import errors
from server.engine.events import ContentDelta, Failed, Started

ENGINE_ERRORS = [
    (errors.InvalidRequest("bad tool", "tools"), 400, "invalid_value", "tools"),
    (errors.ContextOverflow(4096, 4000, 200), 400, "context_length_exceeded", "messages"),
    (errors.QueueFull(3), 429, "queue_full", None),
    (errors.Draining(), 503, "unavailable", None),
    (errors.EngineDead("gone"), 503, "engine_dead", None),
    (errors.OutOfMemory(), 507, "out_of_memory", None),
    (errors.StepFailed("step"), 500, "step_failed", None),
    (errors.RequestTimeout(5), 504, "timeout", None),
    (errors.EngineError("other"), 500, "internal_error", None),
]


def checked(response, status):
    """The error object of a response, its shape checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize(("error", "status", "code", "param"), ENGINE_ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_refusal_before_the_first_byte(served, error, status, code, param, stream):
    served.engine.refusal = error
    response = served.chat(stream=stream)
    found = checked(response, status)
    assert (found["code"], found["param"]) == (code, param)
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_context_overflow_in_openais_words(served):
    served.engine.refusal = errors.ContextOverflow(4096, 4000, 200)
    message = checked(served.chat(), 400)["message"]
    assert message.startswith(
        "This model's maximum context length is 4096 tokens. However, you requested 4200 tokens "
        "(4000 in the messages, 200 in the completion)."
    )


@pytest.mark.parametrize(("error", "status", "code", "param"), ENGINE_ERRORS)
def test_failure_while_running(served, error, status, code, param):
    served.engine.script = [Started(1, 0), ContentDelta(0, "Par"), Failed(error)]
    assert checked(served.chat(), status)["code"] == code
    blocks = served.chat(stream=True).text.split("\n\n")
    last = json.loads(blocks[-2].removeprefix("data: "))
    assert last["error"]["code"] == code
    assert last["error"]["param"] == param
    assert not any("finish_reason" in b and '"stop"' in b for b in blocks)


@pytest.mark.parametrize(
    "script",
    [[Started(1, 0), ContentDelta(0, "Par")], [Started(1, 0), RuntimeError("secret")]],
    ids=["ends early", "crash"],
)
def test_28_a_stream_never_just_stops(served, script):
    served.engine.script = script
    text = served.chat(stream=True).text
    last = json.loads(text.split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["type"] == "server_error"
    assert "secret" not in text
    assert "secret" not in str(checked(served.chat(), 500))


def test_a_crash_ends_its_connection_and_says_so(served):
    served.engine.refusal = RuntimeError("secret")
    for _ in range(3):  # a client that kept the connection would find it cut
        response = served.chat()
        assert "secret" not in str(checked(response, 500))
        assert response.headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/models", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
        ("GET", "/docs", 404),
        ("POST", "/v1/images/generations", 404),
        ("GET", "/v1/completions", 405),
    ],
)
def test_router_errors(served, method, path, status):
    response = httpx.request(method, f"{served.url}{path}", timeout=30)
    checked(response, status)
    assert ("allow" in response.headers) == (status == 405)


DEEP = b'{"messages":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
BAD_BODIES = {
    "empty": b"",
    "spaces": b"  \n ",
    "not JSON": b"capital of France?",
    "cut off": b'{"messages": [',
    "NaN": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "infinity": b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e400}',
    "deep": DEEP,
    "invalid UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "lone surrogate": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "array": b"[1]",
    "string": b'"x"',
    "null": b"null",
    "number": b"1",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_bodies(served, body):
    checked(served.http.post("/v1/chat/completions", content=body), 400)
    assert served.chat().status_code == 200


def test_body_of_any_content_type(served):
    body = b'{"messages": [{"role": "user", "content": "x"}]}'
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        response = served.http.post("/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 200
    assert served.engine.requests[-1].messages == [{"role": "user", "content": "x"}]


def test_repeated_key_is_harmless(served):
    body = b'{"messages": [], "messages": [{"role": "user", "content": "last"}]}'
    assert served.http.post("/v1/chat/completions", content=body).status_code == 200
    assert served.engine.requests[-1].messages[0]["content"] == "last"


def test_compressed_body(served):
    found = checked(
        served.http.post(
            "/v1/chat/completions", content=b"x", headers={"content-encoding": "gzip"}
        ),
        415,
    )
    assert found["code"] == "unsupported_media_type"


def test_large_bodies(served):
    limit = 2_000_000
    body = json.dumps({"messages": [{"role": "user", "content": ""}]}).encode()
    fits = body.replace(b'""', b'"' + b"x" * (limit - len(body)) + b'"')
    assert len(fits) == limit
    assert served.http.post("/v1/chat/completions", content=fits).status_code == 200
    checked(served.http.post("/v1/chat/completions", content=fits + b" "), 413)

    def in_chunks():
        for start in range(0, limit + 1, 65536):
            yield (fits + b" ")[start : start + 65536]

    checked(served.http.post("/v1/chat/completions", content=in_chunks()), 413)


def test_declared_size_is_refused_unread(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_never_comes(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_two_lengths_are_refused(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 400 ")
