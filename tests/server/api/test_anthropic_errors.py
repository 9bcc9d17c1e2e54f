"""Every failure on /v1/messages has Anthropic's shape and names; everything else keeps OpenAI's."""

import json
import socket

import anthropic
import httpx
import pytest
from anthropic.types import ErrorResponse

from server.engine import errors
from server.engine.events import ContentDelta, Failed, Started

HI = {"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
PATHS = ["/v1/messages", "/v1/messages/", "/v1/messages?beta=true"]

ENGINE_ERRORS = [
    (errors.InvalidRequest("bad tool", "tools"), 400, "invalid_request_error"),
    (errors.ContextOverflow(4096, 5000), 400, "invalid_request_error"),
    (errors.QueueFull(3), 429, "rate_limit_error"),
    (errors.Draining(), 503, "overloaded_error"),
    (errors.EngineDead("gone"), 503, "overloaded_error"),
    (errors.OutOfMemory(), 507, "api_error"),
    (errors.StepFailed("step"), 500, "api_error"),
    (errors.GrammarDeadEnd("no"), 500, "api_error"),
    (errors.RequestTimeout(5), 504, "timeout_error"),
    (errors.EngineError("other"), 500, "api_error"),
]

RENDERING = (errors.InvalidRequest, errors.Draining, errors.EngineDead)


def checked(response, status, kind):
    """The message of an error, its shape checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["type", "error", "request_id"]
    assert list(body["error"]) == ["type", "message"]
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    if kind != "request_too_large":  # documented, but not among the SDK's types
        ErrorResponse.model_validate_json(response.text, strict=True)
    return body["error"]["message"]


@pytest.mark.parametrize(("error", "status", "kind"), ENGINE_ERRORS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
def test_refusal_before_the_first_byte(served, error, status, kind, path, stream):
    served.engine.refusal = error
    response = served.http.post(path, json={**HI, "stream": stream})
    checked(response, status, kind)
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    "at", [i for i, (error, *_) in enumerate(ENGINE_ERRORS) if type(error) in RENDERING]
)
def test_a_prompt_that_cannot_be_counted(served, monkeypatch, at):
    error, status, kind = ENGINE_ERRORS[at]

    async def render(request):
        raise error

    monkeypatch.setattr(served.engine, "render", render)
    checked(served.http.post("/v1/messages/count_tokens", json=HI), status, kind)


@pytest.mark.parametrize(("error", "status", "kind"), ENGINE_ERRORS)
def test_failure_while_running(served, error, status, kind):
    served.engine.script = [Started(1, 0), ContentDelta(0, "Par"), Failed(error)]
    checked(served.http.post("/v1/messages", json=HI), status, kind)
    response = served.http.post("/v1/messages", json={**HI, "stream": True})
    name, data = response.text.split("\n\n")[-2].split("\n")
    assert name == "event: error"
    body = json.loads(data.removeprefix("data: "))
    assert body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]
    assert "message_stop" not in response.text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.ContextOverflow(4096, 5000), "prompt is too long: 5000 tokens > 4095 maximum"),
        (errors.ContextOverflow(4096, 4096), "prompt is too long: 4096 tokens > 4095 maximum"),
        (errors.ContextOverflow(4096, 5000, 9), "prompt is too long: 5000 tokens > 4095 maximum"),
    ],
)
def test_a_prompt_that_is_too_long_in_the_words_that_claude_code_looks_for(served, error, message):
    served.engine.refusal = error
    response = served.http.post("/v1/messages", json=HI)
    assert checked(response, 400, "invalid_request_error") == message


def test_the_field_is_named_as_this_dialect_names_it(served):
    error = errors.InvalidRequest("minProperties is not supported", "tools[2].function.parameters")
    served.engine.refusal = error
    told = checked(served.http.post("/v1/messages", json=HI), 400, "invalid_request_error")
    assert told == "tools[2].input_schema: minProperties is not supported"


class Crowded:
    """Refuses what does not fit into `limit` tokens, as the engine does."""

    def __init__(self, engine, prompt_tokens, limit=4096):
        self._submit, self._prompt, self._limit = engine.submit, prompt_tokens, limit

    async def __call__(self, request):
        asked = request.max_tokens
        if self._prompt >= self._limit or self._prompt + asked > self._limit:
            raise errors.ContextOverflow(self._limit, self._prompt, asked)
        return await self._submit(request)


@pytest.mark.parametrize("stream", [False, True])
def test_asking_for_more_than_there_is_room_for_gets_the_room(served, scripts, monkeypatch, stream):
    """Claude Code asks for 32,000 tokens whatever the model."""
    monkeypatch.setattr(served.engine, "submit", Crowded(served.engine, 4000))
    body = {**HI, "max_tokens": 32_000, "stream": stream}
    assert '"end_turn"' in served.http.post("/v1/messages", json=body).text
    assert served.engine.requests[-1].max_tokens == 96
    served.engine.script = [Started(1, 0), ContentDelta(0, "x"), scripts.finished(reason="length")]
    assert '"model_context_window_exceeded"' in served.http.post("/v1/messages", json=body).text


def test_no_room_at_all_is_an_error(served, monkeypatch):
    monkeypatch.setattr(served.engine, "submit", Crowded(served.engine, 4096))
    told = checked(served.http.post("/v1/messages", json=HI), 400, "invalid_request_error")
    assert told.startswith("prompt is too long")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("PUT", "/v1/messages/count_tokens", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages/msg_1", 404, "not_found_error"),
    ],
)
def test_router_errors(served, method, path, status, kind):
    response = served.http.request(method, path)
    assert path.partition("?")[0] in checked(response, status, kind)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(
    "body", [b"", b"Hi", b"[1]", b'{"messages": [', b"\xff", b'{"max_tokens": NaN}']
)
def test_bad_bodies(served, body):
    checked(served.http.post("/v1/messages", content=body), 400, "invalid_request_error")


def test_a_body_that_is_too_large_slow_or_compressed(served):
    large = b'{"x": "' + b"x" * 2_000_000 + b'"}'
    checked(served.http.post("/v1/messages", content=large), 413, "request_too_large")
    zipped = {"content-encoding": "gzip"}
    response = served.http.post("/v1/messages", content=b"{}", headers=zipped)
    checked(response, 415, "invalid_request_error")
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
        slow.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        answer = b""
        while b"timeout_error" not in answer:
            piece = slow.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408")


def test_doors(launch):
    served = launch(api_key="s3cret")
    checked(served.http.post("/v1/messages", json=HI), 401, "authentication_error")
    evil = {"host": "evil.example"}
    checked(served.http.post("/v1/messages", json=HI, headers=evil), 403, "permission_error")
    page = {"origin": "https://evil.example"}
    checked(served.http.post("/v1/messages", json=HI, headers=page), 403, "permission_error")
    for key in ({"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}):
        assert served.http.post("/v1/messages", json=HI, headers=key).status_code == 200


def test_strict_model_names(launch):
    served = launch(strict_model=True)
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        response = served.http.post(path, json={**HI, "model": "claude-sonnet-5"})
        assert "claude-sonnet-5" in checked(response, 404, "not_found_error")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/messagesx", 404), ("/messages", 404), ("/v1/chat/completions", 400), ("/nope", 404)],
)
def test_other_paths_keep_openais_shape(served, path, status):
    response = served.http.post(path, json={})
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_a_crash_tells_nothing(served):
    served.engine.script = [Started(1, 0), RuntimeError("secret")]
    told = checked(served.http.post("/v1/messages", json=HI), 500, "api_error")
    assert "secret" not in told
    text = served.http.post("/v1/messages", json={**HI, "stream": True}).text
    assert "event: error" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ContextOverflow(4096, 5000), anthropic.BadRequestError),
        (errors.QueueFull(3), anthropic.RateLimitError),
        (errors.Draining(), anthropic.InternalServerError),
        (errors.StepFailed("step"), anthropic.InternalServerError),
    ],
)
def test_the_sdk_reads_them(served, error, kind):
    served.engine.refusal = error
    client = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
    with client, pytest.raises(kind) as caught:
        client.messages.create(model="m", **HI)
    assert caught.value.request_id.startswith("req_")
    assert caught.value.body["error"]["message"] in str(caught.value)


def test_the_request_id_of_an_answer(served):
    response = served.http.post("/v1/messages", json=HI)
    assert response.headers["request-id"] == response.headers["x-request-id"]
    given = served.http.post("/v1/messages", json=HI, headers={"x-request-id": "mine"})
    assert given.headers["request-id"] == "mine"
    assert httpx.get(f"{served.url}/health").headers["request-id"].startswith("req_")
