"""Of the forty behaviours that clients need, those of who may call and of the body, in all three
dialects; and that each of the forty has a test which bears its number."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = "http://localhost:3000"  # where somebody runs a chat in the browser
TALK = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": TALK},
    "/v1/responses": {"input": TALK},
    "/v1/messages": {"messages": TALK, "max_tokens": 9},
}
HEADERS = "authorization, content-type, x-api-key, anthropic-version, x-stainless-os"
TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def open_to_page(launch):
    return launch(cors_origin=[PAGE])


@pytest.mark.parametrize("path", BODIES)
def test_39_a_page_of_a_listed_origin_may_call(open_to_page, scripts, path):
    http = open_to_page.http
    open_to_page.engine.script = scripts.answer()
    ask = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": HEADERS,
    }
    preflight = http.options(path, headers=ask)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "POST" in preflight.headers["access-control-allow-methods"]
    allowed = preflight.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in HEADERS.split(", "))
    for stream in (False, True):
        response = http.post(
            path, json={**BODIES[path], "stream": stream}, headers={"Origin": PAGE}
        )
        assert response.status_code == 200, response.text
        assert response.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in response.headers["access-control-expose-headers"]
    refused = http.post(path, json={}, headers={"Origin": PAGE})
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == PAGE, "a page can read why"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3001", "null"])
def test_39_a_page_of_another_origin_may_not(open_to_page, path, origin):
    ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    preflight = open_to_page.http.options(path, headers=ask)
    assert preflight.status_code in (400, 403)
    assert "access-control-allow-origin" not in preflight.headers
    before = len(open_to_page.engine.requests)
    simple = {"Origin": origin, "Content-Type": "text/plain"}  # needs no preflight
    response = open_to_page.http.post(path, content=json.dumps(BODIES[path]), headers=simple)
    assert response.status_code == 403
    assert len(open_to_page.engine.requests) == before


@pytest.mark.parametrize("path", [*BODIES, "/v1/models", "/health", "/"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io:80", "localhost.evil.example"])
def test_39_a_name_that_was_pointed_here_is_refused(open_to_page, path, host):
    for method in ("GET", "POST", "OPTIONS"):
        headers = {"Host": host, "Origin": f"http://{host}"}
        response = open_to_page.http.request(method, path, headers=headers)
        assert response.status_code == 403
        assert "Host" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_39_a_body_is_json_whatever_it_is_called(served, path, kind):
    headers = {} if kind is None else {"content-type": kind}
    body = json.dumps(BODIES[path]).encode()
    response = served.http.post(path, content=body, headers=headers)
    assert response.status_code == 200, response.text
    assert ("content-type" in response.request.headers) == (kind is not None)


@pytest.mark.parametrize("path", BODIES)
def test_39_a_body_may_have_ten_megabytes(launch, path):
    served = launch()
    text = "x" * (10 << 20)
    body = json.dumps(BODIES[path]).replace("Hi", text)
    response = httpx.post(f"{served.url}{path}", content=body, timeout=60)
    assert response.status_code == 200, response.text[:300]
    assert served.engine.requests[-1].messages[-1]["content"] == text


def numbers_in(text: str) -> set[int]:
    """The numbers that tests defined in `text` bear."""
    names = [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    found = [re.match(r"test_(?:behaviour_)?(\d\d)_", name) for name in names]
    return {int(match[1]) for match in found if match}


def test_each_of_the_forty_has_a_test():
    borne: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        borne |= numbers_in(path.read_text(encoding="utf-8"))
    assert borne >= set(range(1, 41)), sorted(set(range(1, 41)) - borne)


def test_a_number_that_is_missing_would_be_seen():
    assert numbers_in("def test_07_a():\n  x\n\ndef test_behaviour_08_b():\n  x\n") == {7, 8}
    assert numbers_in("# test_09_c\n\ndef helper_10_d():\n  x\n\ndef test_1_e():\n  x\n") == set()
