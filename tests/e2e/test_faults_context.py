"""Prompts about as long as the context: one token less is answered, one more is told."""

import json
import shutil

import httpx
import pytest

from server.bench.ideal import end_tokens
from server.bench.servers import DEMO

CONTEXT = 300
ENDLESS = {"logit_bias": {str(token): -100 for token in end_tokens(DEMO)}}


@pytest.fixture(scope="module")
def server(start_faulty, tmp_path_factory):
    """The demo, as a checkpoint that was made for a short context."""
    folder = tmp_path_factory.mktemp("short") / "checkpoint"
    shutil.copytree(DEMO, folder)
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    text["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config))
    return start_faulty("--model", str(folder))


def complete(server, tokens, **fields):
    body = {"prompt": [400 + i % 50 for i in range(tokens)], **ENDLESS, **fields}
    return httpx.post(f"{server.server.url}/v1/completions", json=body, timeout=60)


def chat_of(server, tokens):
    """A chat whose prompt has so many tokens."""
    words = 0
    while True:
        body = {"messages": [{"role": "user", "content": "a " * words + "b"}]}
        count = httpx.post(f"{server.server.url}/tokenize", json=body).json()["count"]
        if count >= tokens:
            assert count == tokens
            return body
        words += max(1, (tokens - count) // 2)


def test_one_token_less_has_room_for_one_token(server):
    response = complete(server, CONTEXT - 1, max_tokens=-1)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 1
    assert answer["usage"]["prompt_tokens"] == CONTEXT - 1


@pytest.mark.parametrize(
    ("tokens", "fields"),
    [
        (CONTEXT, {"max_tokens": -1}),
        (CONTEXT + 1, {"max_tokens": -1}),
        (CONTEXT - 1, {"max_tokens": 2}),
        (CONTEXT - 1, {"max_tokens": 2, "stream": True}),
    ],
)
def test_one_token_more_is_told(server, tokens, fields):
    response = complete(server, tokens, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"maximum context length is {CONTEXT} tokens" in error["message"]
    assert f"{tokens}" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("tokens", "status"), [(CONTEXT - 1, 200), (CONTEXT, 400)])
def test_a_chat_of_exactly_so_many_tokens(server, tokens, status, stream):
    body = {**chat_of(server, tokens), **ENDLESS, "stream": stream}
    response = httpx.post(server.url, json=body, timeout=60)
    assert response.status_code == status, response.text
    if status == 400:
        assert response.json()["error"]["code"] == "context_length_exceeded"
    else:
        assert '"finish_reason":"length"' in response.text
    assert server.serves()
