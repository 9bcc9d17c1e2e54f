"""The serving process: keys from a file while it runs, and a log without prompts and keys."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import wait_for

ROOT = Path(__file__).parents[2]
SECRET = "Tell nobody about the walrus."


def key_command(*arguments: str) -> str:
    command = [sys.executable, "-m", "server", "key", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


@pytest.fixture(scope="module")
def keyed(start_serving, tmp_path_factory):
    """A server with a key file and a log in JSON at its most talkative; its file, its first key."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    first = key_command("new", "first", "--file", str(path))
    server = start_serving(
        "--key-file", str(path), "--log-format", "json", "--log-level", "debug",
    )  # fmt: skip
    assert server.url, server.output
    return server, path, first


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"x-api-key": key}).status_code


def test_keys_come_and_go_while_it_serves(keyed):
    server, path, first = keyed
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert status(server.url, first) == 200
    assert status(server.url, "mxs_made-up") == 401
    second = key_command("new", "second", "--file", str(path))
    wait_for(lambda: status(server.url, second) == 200)
    key_command("remove", "second", "--file", str(path))
    wait_for(lambda: status(server.url, second) == 401)
    assert status(server.url, first) == 200
    assert httpx.get(f"{server.url}/health/live").status_code == 200


def test_the_log_has_every_request_and_nothing_of_what_it_says(keyed):
    server, _, first = keyed
    headers = {"Authorization": f"Bearer {first}", "X-Request-Id": "mine-1"}
    body = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}
    for stream in (False, True):
        for dialect in ("chat/completions", "messages"):
            url = f"{server.url}/v1/{dialect}?secret={SECRET}"
            reply = httpx.post(url, json={**body, "stream": stream}, headers=headers, timeout=60)
            assert reply.status_code == 200
            assert reply.headers["x-request-id"] == "mine-1"

    def lines():
        found = [line for line in list(server.lines) if line.startswith("{")]
        records = [json.loads(line) for line in found]
        return [r for r in records if r.get("id") == "mine-1"]

    wait_for(lambda: len(lines()) == 4)
    for record in lines():
        assert (record["logger"], record["status"], record["key"]) == (
            "server.access",
            200,
            "first",
        )
        assert record["prompt_tokens"] > 0
        assert 1 <= record["completion_tokens"] <= 4
        assert record["finish"] in ("length", "stop")
        assert record["ttft_s"] >= 0
    for word in ("walrus", "Walrus", first, first.removeprefix("mxs_")):
        assert word not in server.output
