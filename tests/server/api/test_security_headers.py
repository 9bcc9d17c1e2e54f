"""Every answer has the headers that keep a browser from guessing, framing and storing it."""

from __future__ import annotations

import httpx
import pytest

from server.middleware import SAFE_HEADERS

TALK = {"messages": [{"role": "user", "content": "x"}]}
ASKED = {
    "a whole answer": ("POST", "/v1/chat/completions", {}, TALK),
    "a stream": ("POST", "/v1/chat/completions", {}, {**TALK, "stream": True}),
    "an error": ("POST", "/v1/chat/completions", {}, {}),
    "no such path": ("GET", "/nowhere", {}, None),
    "no such method": ("PUT", "/v1/models", {}, None),
    "another Host": ("GET", "/health", {"Host": "evil.example"}, None),
    "another Origin": ("GET", "/health", {"Origin": "https://evil.example"}, None),
    "no key": ("GET", "/v1/models", {"x-api-key": "wrong"}, None),
    "too many headers": ("GET", "/v1/models", {f"x-{i}": "y" for i in range(200)}, None),
    "figures": ("GET", "/metrics", {}, None),
    "a line of text": ("GET", "/", {}, None),
}


@pytest.fixture(scope="module")
def keyed(launch):
    return launch(api_key="k")


@pytest.mark.parametrize("what", ASKED)
def test_every_answer_has_them(keyed, what):
    method, path, headers, body = ASKED[what]
    headers = {"x-api-key": "k", **headers}
    reply: httpx.Response = keyed.http.request(method, path, headers=headers, json=body)
    for name in SAFE_HEADERS:
        assert reply.headers.get_list(name), (name, reply.status_code)
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert "no-store" in reply.headers["cache-control"]
    assert "server" not in reply.headers or reply.headers["server"] == "uvicorn"


def test_a_crash_has_them_too(keyed):
    keyed.engine.refusal = RuntimeError("broken")
    reply = keyed.http.post("/v1/chat/completions", json=TALK, headers={"x-api-key": "k"})
    keyed.engine.refusal = None
    assert reply.status_code == 500
    assert "broken" not in reply.text
    assert reply.headers["x-frame-options"] == "DENY"
