"""Texts that cost a tokenizer most, and figures that are asked for while everybody talks."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.e2e.conftest import COUNT, chat_body, wait_for

MILLION = {
    "one word": "a" * 1_000_000,
    "spaces": " " * 1_000_000,
    "newlines": "\n" * 1_000_000,
    "characters without width": "\u200b\u200d" * 170_000,
    "joined emoji": "👩\u200d👩\u200d👧\u200d👦" * 40_000,
    "marks upon marks": "e" + "\u0301" * 500_000,
    "tags": "<|im_start|><think>" * 50_000,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", MILLION)
def test_a_megabyte_of_anything_has_an_answer(live_server, what):
    """Of the server's own; others get theirs meanwhile."""
    url = f"{live_server.url}/v1/chat/completions"
    body = {**chat_body(MILLION[what]), "max_tokens": 1}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(httpx.post, url, json=body, timeout=100)
        assert httpx.get(f"{live_server.url}/health/live", timeout=10).status_code == 200
        found = reply.result()
    if found.status_code != 200:
        assert found.status_code == 400
        assert found.json()["error"]["code"] == "context_length_exceeded"


def test_figures_are_told_under_load(live_server):
    url = f"{live_server.url}/v1/chat/completions"
    body = chat_body(COUNT, max_tokens=24)
    with ThreadPoolExecutor(6) as pool:
        crowd = [pool.submit(httpx.post, url, json=body, timeout=100) for _ in range(6)]
        pages = 0
        while not all(one.done() for one in crowd):
            page = httpx.get(f"{live_server.url}/metrics", timeout=10)
            assert page.status_code == 200
            assert "vllm:num_requests_running{" in page.text
            pages += 1
            time.sleep(0.02)
    assert pages
    assert [one.result().status_code for one in crowd] == [200] * 6
    wait_for(lambda: "mxserve_slots_used 0.0" in httpx.get(f"{live_server.url}/metrics").text)
    text = httpx.get(f"{live_server.url}/metrics").text
    for kind in ("decode", "prefill", "admit"):
        assert f'mxserve_work_seconds_count{{kind="{kind}"}} 0.0' not in text
