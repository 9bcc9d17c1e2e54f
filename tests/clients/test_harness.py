"""The harness itself: processes end, wrong results are told, the relay passes what it is given."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest

from tests.clients import __main__ as command
from tests.clients.catalogue import Known
from tests.clients.exercises.relay import Passed, Relay
from tests.clients.process import clean_environment, run
from tests.clients.results import Check, Result, as_json, published, table

RESULT = Result("x", "sdk", "1.0", ("chat",), (Check("plain", True, 0.1),), 1.0, 0.0, 0)


def script(tmp_path, text):
    file = tmp_path / "script.py"
    file.write_text(text)
    return [sys.executable, str(file)]


def test_a_daemon_ends_with_its_client(tmp_path):
    """Also one in a session of its own that keeps stdout open."""
    text = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
    )
    home = tmp_path / "home"
    done = run(
        script(tmp_path, text),
        environment=clean_environment(home), folder=home, logs=tmp_path / "log", seconds=60,
    )  # fmt: skip
    assert done.status == 0, done.stderr
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "the daemon lives"
        time.sleep(0.05)


def test_a_client_that_hangs_is_ended(tmp_path):
    home = tmp_path / "home"
    done = run(
        script(tmp_path, "print('here', flush=True)\nimport time\ntime.sleep(600)\n"),
        environment=clean_environment(home), folder=home, logs=tmp_path / "log", seconds=2,
    )  # fmt: skip
    assert done.status is None
    assert done.stdout == "here\n"
    assert done.seconds < 30


def test_no_secret_of_ours_reaches_a_client(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://elsewhere")
    environment = clean_environment(tmp_path / "home")
    assert not {"OPENAI_API_KEY", "ANTHROPIC_BASE_URL"} & set(environment)
    assert environment["HOME"] == str(tmp_path / "home")
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("result", "wrong"),
    [
        (RESULT, False),
        (replace(RESULT, checks=()), True),
        (replace(RESULT, failure="it ended early"), True),
        (replace(RESULT, checks=(Check("plain", False, 1, "no"),)), True),
        (replace(RESULT, checks=(Check("plain", False, 1, "no", "known"),)), False),
    ],
)
def test_what_fails_a_run(result, wrong):
    assert result.wrong == wrong
    assert ("FAILED" in table([result])) == wrong


def test_the_published_table_is_the_json():
    known = replace(RESULT, checks=(Check("image", False, 1, "no", "none are taken"),))
    report = json.loads(as_json([RESULT, known], {**command.about(), "date": "2026-11-24"}))
    text = published("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n", report)
    assert text.startswith("before\n<!-- table -->\nTried on 2026-11-24 with mxserve ")
    assert text.endswith("\n<!-- /table -->\nafter\n")
    assert "old" not in text
    assert "| x | 1.0 | chat | plain | 1 of 1 |" in text
    assert "0 of 1 (image: none are taken)" in text
    with pytest.raises(ValueError, match="<!-- table -->"):
        published("nothing", report)


def test_clients_are_chosen_by_name_and_kind():
    assert [client.name for client in command.chosen("codex")] == ["codex"]
    assert {client.kind for client in command.chosen("agent,oracle")} == {"agent", "oracle"}
    assert command.chosen("") == list(command.CLIENTS)
    with pytest.raises(SystemExit, match="no such client: codecs"):
        command.chosen("codecs")


def test_every_exercise_is_there():
    names = {path.name for path in command.EXERCISES.iterdir()}
    assert {client.exercise for client in command.CLIENTS} <= names


def test_an_early_end_is_a_failure(tmp_path):
    client = replace(command.CLIENTS[0], exercise="missing.py")
    here = Path(sys.executable)
    installed = command.Installed(tmp_path / "prefix", here, here.parent, 0, 0)
    result = command.exercise(client, installed, {}, tmp_path)
    assert result.wrong
    assert "missing.py" in (result.failure or "")


def test_a_known_failure_is_that_failure_only():
    known = Known("why", r"(unknown event: reasoning\.(delta|done)(; )?)+")
    client = replace(command.CLIENTS[0], known={"streaming": known})
    where = " (expect:44: raise AssertionError(str(what)[:600]))"
    told = "AssertionError: unknown event: reasoning.delta; unknown event: reasoning.done" + where
    assert command.why(client, "streaming", told) == "why"
    assert command.why(client, "streaming", told.replace(where, "; no usage" + where)) is None
    assert command.why(client, "streaming", "TimeoutError: 300 s" + where) is None
    assert command.why(client, "usage", told) is None
    assert command.why(client, "streaming", None) is None


class Echo(BaseHTTPRequestHandler):
    """Answers with the request it got."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def relay():
    target = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = Thread(target=target.serve_forever)
    thread.start()
    found = Relay(f"http://127.0.0.1:{target.server_port}")
    yield found
    for server in (found, target):
        server.shutdown()
        server.server_close()
    thread.join()


CALL = {"type": "function", "function": {"name": "glob"}}
DIALECTS = [
    ("/v1/chat/completions", {"messages": [], "tools": [CALL]},
     {"tool_choice": CALL, "parallel_tool_calls": False}, "max_tokens", {"thinking_budget": 256}),
    ("/v1/responses", {"input": [], "tools": [{"type": "function", "name": "glob"}],
                       "reasoning": {"effort": "high"}},
     {"tool_choice": {"type": "function", "name": "glob"}, "parallel_tool_calls": False},
     "max_output_tokens", {"reasoning": {"effort": "high", "max_tokens": 256}}),
    ("/v1/messages", {"messages": [], "tools": [{"name": "glob"}], "max_tokens": 32000,
                      "thinking": {"type": "adaptive"}},
     {"tool_choice": {"type": "tool", "name": "glob", "disable_parallel_tool_use": True}},
     "max_tokens", {"thinking": {"type": "adaptive", "budget_tokens": 256}}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "choice", "limit", "thought"), DIALECTS)
def test_the_relay_forces_one_call(relay, path, body, choice, limit, thought):
    relay.force = "glob"
    first, second = (
        httpx.post(relay.url + path, json={**body, "model": "m"}).json() for _ in range(2)
    )
    assert first == {**second, **choice}
    bounds = {"temperature": 0, "frequency_penalty": 0.5, limit: 1024}
    assert second == {**body, "model": "m", **bounds, **thought}
    assert [passed.forced for passed in relay.passed] == [True, False]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}),
        ("/v1/responses", {"input": [{"type": "function_call_output", "output": "x"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}),
    ],
)
def test_the_relay_sees_a_tools_result(relay, path, body):
    httpx.post(relay.url + path, json=body)
    httpx.post(relay.url + path, json={"messages": [{"role": "user", "content": "x"}]})
    assert [len(passed.results) for passed in relay.passed] == [1, 0]


@pytest.mark.parametrize(
    ("path", "tool"),
    [
        ("/v1/chat/completions", {"type": "function", "function": {"name": "read", "parameters": {
            "type": "object", "properties": {"path": {"type": "string"}, "limit": {}}}}}),
        ("/v1/messages", {"name": "read", "input_schema": {
            "type": "object", "properties": {"path": {"type": "string"}, "limit": {}}}}),
    ],
)  # fmt: skip
def test_the_relay_leaves_a_tool_one_call(relay, path, tool):
    relay.pinned = {"read": {"path": "notes.txt"}}
    other = {"type": "function", "name": "other", "parameters": {"properties": {}}}
    body = {"model": "m", "messages": [], "tools": [tool, other]}
    [got, kept] = httpx.post(relay.url + path, json=body).json()["tools"]
    inner = got.get("function", got)
    schema = inner.get("parameters") or inner["input_schema"]
    assert schema["properties"]["path"]["enum"] == ["notes.txt"]
    assert list(schema["properties"]) == schema["required"] == ["path"]
    assert schema["additionalProperties"] is False
    assert kept == other


WHOLE_CHAT = {"choices": [{"message": {"content": "Paris."}}]}
WHOLE_RESPONSE = {"object": "response", "output": [
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"type": "message", "content": [{"type": "output_text", "text": "Paris."}]},
]}  # fmt: skip
WHOLE_MESSAGE = {"type": "message", "content": [
    {"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Paris."},
]}  # fmt: skip
STREAMS = [
    [{"choices": [{"delta": {"reasoning_content": "Hm."}}]},
     {"choices": [{"delta": {"content": "Par"}}]}, {"choices": [{"delta": {"content": "is."}}]},
     {"choices": []}],
    [{"type": "response.reasoning_text.delta", "delta": "Hm."},
     {"type": "response.output_text.delta", "delta": "Par"},
     {"type": "response.output_text.delta", "delta": "is."},
     {"type": "response.completed", "response": WHOLE_RESPONSE}],
    [{"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "Hm."}},
     {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Par"}},
     {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "is."}}],
]  # fmt: skip


@pytest.mark.parametrize("whole", [WHOLE_CHAT, WHOLE_RESPONSE, WHOLE_MESSAGE])
def test_the_text_of_a_whole_answer(whole):
    cache = {"cache": {"reused_tokens": 12, "prefilled_tokens": 3}}
    answer = json.dumps({**whole, "x_mxserve": cache})
    passed = Passed("POST", "/v1/x", {}, 200, answer)
    assert passed.text == "Paris."
    assert (passed.reused, passed.tokens) == (12, 15)


@pytest.mark.parametrize("events", STREAMS)
def test_the_text_of_a_stream(events):
    answer = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    passed = Passed("POST", "/v1/x", {}, 200, answer)
    assert passed.text == "Paris."
    assert (passed.reused, passed.tokens) == (0, 0)


def test_the_relay_is_no_way_out(relay):
    """Given as a proxy it refuses, and tells which host was asked for."""
    code = (
        "import sys, urllib.request\n"
        "urllib.request.install_opener(urllib.request.build_opener("
        "urllib.request.ProxyHandler({'http': sys.argv[1], 'https': sys.argv[1]})))\n"
        "urllib.request.urlopen(sys.argv[2])\n"
    )
    for url in ("http://elsewhere.invalid/x", "https://far.invalid/x"):
        done = subprocess.run([sys.executable, "-c", code, relay.url, url], capture_output=True)
        assert done.returncode != 0
        assert b"403" in done.stderr
    assert relay.refused == {"elsewhere.invalid", "far.invalid:443"}
