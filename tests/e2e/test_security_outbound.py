"""While it serves, the server calls nobody, starts no program, reads no pickle and no file that a
request names; and nothing in the code could."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess, start_server
from tests.e2e.bad_requests import BODIES
from tests.e2e.test_raw_bytes import exchange

ROOT = Path(__file__).parents[2]
TALK = [{"role": "user", "content": "What is the capital of France?"}]
NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "http://192.0.2.1/model",
    "https://example.com/x",
    "org/model",
    "a\nb",
    "x" * 10_000,
)
URLS = ("http://192.0.2.1/x.png", "https://example.com/x", "file:///etc/passwd", "data:,x")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Path]]:
    """A server, and where it writes down what it should not do from now on."""
    path = tmp_path_factory.mktemp("guard") / "on"
    program = ("tests.e2e.guarded_server", str(path))
    server = start_server("--disk-cache", str(path.parent / "cache"), program=program)
    assert server.url, server.output
    path.touch()
    yield server, path.with_suffix(".events")
    server.stop()


def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    chat = {"messages": TALK, "max_tokens": 8, "reasoning_effort": "none"}
    yield "/v1/chat/completions", chat
    yield "/v1/chat/completions", {**chat, "stream": True, "n": 2, "logprobs": True}
    yield "/v1/responses", {"input": TALK, "max_output_tokens": 8}
    yield "/v1/messages", {"messages": TALK, "max_tokens": 8}
    yield "/v1/completions", {"prompt": "Count", "max_tokens": 8}
    yield "/tokenize", {"messages": TALK}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    yield "/v1/chat/completions", {**chat, "response_format": form, "max_tokens": 40}
    for name in NAMES:
        yield "/v1/chat/completions", {**chat, "model": name}
    for url in URLS:
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        yield "/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}
        source = [{"type": "image", "source": {"type": "url", "url": url}}]
        yield "/v1/messages", {"messages": [{"role": "user", "content": source}], "max_tokens": 8}
        parts = [{"type": "input_file", "file_url": url}, {"type": "input_image", "image_url": url}]
        yield "/v1/responses", {"input": [{"role": "user", "content": parts}]}
        reference = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": url}}}
        yield "/v1/chat/completions", {**chat, "response_format": reference}
        yield "/v1/responses", {"input": "x", "previous_response_id": url}
        tools = [{"type": "mcp", "server_label": "x", "server_url": url}]
        yield "/v1/responses", {"input": TALK, "tools": tools, "max_output_tokens": 8}


def test_requests_make_the_server_call_nobody(guarded):
    server, events = guarded
    found = set()
    for path, body in bodies():
        reply = httpx.post(f"{server.url}{path}", content=json.dumps(body), timeout=60)
        assert reply.status_code < 500, reply.text
        found.add(reply.status_code)
    for raw in BODIES.values():
        exchange(server, raw)
    for path in ("/v1/models", "/v1/models/..%2f..%2fetc%2fpasswd", "/health", "/metrics", "/"):
        httpx.get(f"{server.url}{path}")
    assert {200, 400} <= found
    assert events.read_text() == ""


def test_the_guard_would_have_seen_it(guarded, tmp_path):
    """The same hook, in a process that does what is forbidden."""
    import subprocess
    import sys

    path = tmp_path / "on"
    path.touch()
    code = (
        "import sys, socket, pickle, subprocess, pathlib; from tests.e2e import guarded_server\n"
        "guarded_server.watch(pathlib.Path(sys.argv[1]))\n"
        "socket.socket().connect_ex(('127.0.0.1', 9))\n"
        "pickle.loads(b'cbuiltins\\nprint\\n.')\n"
        "open('/etc/passwd').close()\n"
        "subprocess.run(['true'])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True, timeout=60)
    seen = path.with_suffix(".events").read_text()
    for event in ("socket.connect", "pickle.find_class", "open", "subprocess.Popen"):
        assert f"{event} " in seen


FORBIDDEN_IMPORTS = frozenset(
    ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch")
)
# The demo's trainer and the peers' own environments are no part of a server.
NOT_SERVED = ("model/demo/", "model/measure/mlx_lm_worker.py", "server/bench/")


def sources() -> list[Path]:
    found = [p for folder in ("model", "server") for p in (ROOT / folder).rglob("*.py")]
    return [p for p in found if not p.relative_to(ROOT).as_posix().startswith(NOT_SERVED)]


def offences(text: str) -> list[str]:
    """What in a module could run somebody else's code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [name for name in names if name.split(".")[0] in FORBIDDEN_IMPORTS]
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
            refused = isinstance(node.value, ast.Constant) and node.value.value is False
            found += [] if refused else [str(node.arg)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found += [node.func.id] if node.func.id in ("eval", "exec", "compile") else []
    return found


def test_no_pickle_no_remote_code_no_eval():
    found = {str(p): offences(p.read_text(encoding="utf-8")) for p in sources()}
    assert len(found) > 150
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from torch import load", "f(trust_remote_code=True)", "eval('1')",
     "np.load(x, allow_pickle=flag)"],
)  # fmt: skip
def test_the_search_finds_an_offender(text):
    assert offences(text)
