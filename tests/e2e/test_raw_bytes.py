"""Bytes on a socket that no client would send: each gets an answer of its own or a closed
connection; nothing is a 500, nothing hangs, and nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ServerProcess
from tests.e2e.bad_requests import BODIES, CASES, CHAT, GOOD, MALFORMED, request
from tests.e2e.conftest import wait_for

PATHS = (CHAT, "/v1/responses", "/v1/messages", "/v1/completions", "/tokenize", "/detokenize")


@pytest.fixture(scope="module")
def server(start_serving: Callable[..., ServerProcess]) -> ServerProcess:
    """Slow senders and readers end after a second here."""
    limits = ("header", "body", "send")
    flags = [part for name in limits for part in (f"--{name}-timeout", "1")]
    started = start_serving(*flags, "--max-body-bytes", "300000")
    assert started.url, started.output
    return started


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=15)


def exchange(server: ServerProcess, raw: bytes) -> bytes:
    """What comes back until the connection ends, which it must."""
    found = b""
    with connect(server) as sock, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        sock.sendall(raw)
        while piece := sock.recv(65536):
            found += piece
    return found


def statuses(answer: bytes) -> list[int]:
    return [int(n) for n in re.findall(rb"(?:^|\n|\})HTTP/1\.1 (\d{3}) ", answer)]


def test_there_are_enough_of_them():
    assert len(MALFORMED) + len(BODIES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_a_bad_request(server, name):
    """An error of the client's (or nothing), said once or once for each request, and the end."""
    found = exchange(server, CASES[name])
    told = statuses(found)
    assert found == b"" or told, found[:300]
    assert all(400 <= status < 500 for status in told), found[:500]
    if b"application/json" in found and len(told) == 1:
        body = found.partition(b"\r\n\r\n")[2]
        if body and b"chunked" not in found:
            assert json.loads(body)["error"]["message"]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_with_a_body_refuses_what_is_none(server, path):
    for body in (b"", b"{", b"\xff", b"[]", b"[" * 50_000, b'{"a": NaN}', b"{}"):
        assert statuses(exchange(server, request(body, path))) == [400]


def test_a_body_may_have_any_type(server):
    """The type is not what decides: the Origin is (a page of another one is refused)."""
    found = exchange(server, request(GOOD, CHAT, "Content-Type: text/plain"))
    assert statuses(found) == [200]


VALID = request(GOOD, CHAT, "Authorization: Bearer x", "Content-Type: application/json")


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good request with some bytes changed, doubled or missing."""
    raw = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw) - 1))
        change = draw(st.sampled_from(["set", "insert", "cut", "double", "drop"]))
        if change == "set":
            raw[at] = draw(st.integers(0, 255))
        elif change == "insert":
            raw[at:at] = draw(st.binary(max_size=20))
        elif change == "cut" and at:
            del raw[at:]
        elif change == "double":
            raw[at:at] = raw[at : at + 30]
        elif len(raw) > 40:
            del raw[at : at + draw(st.integers(1, 20))]
    return bytes(raw)


RELAXED = settings(
    max_examples=120,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@RELAXED
@given(damaged() | st.binary(min_size=1, max_size=300))
def test_any_bytes(server, raw):
    """What comes within a moment is no 5xx; who waits for more is left there."""
    found = b""
    with connect(server) as sock, contextlib.suppress(OSError):
        sock.settimeout(0.1)
        sock.sendall(raw)
        while piece := sock.recv(65536):
            found += piece
    assert not [status for status in statuses(found) if status >= 500], found[:500]


def test_nothing_is_left_behind(server):
    """Slots, connections, threads and memory, after all of that once more."""
    process = psutil.Process(server.process.pid)

    def busy() -> int:
        health = httpx.get(f"{server.url}/health").json()
        return health["active"] + health["queued"]

    def connections() -> int:
        return sum(c.status == "ESTABLISHED" for c in process.net_connections())

    wait_for(lambda: busy() == 0)
    wait_for(lambda: connections() == 0)
    files, threads = process.num_fds(), process.num_threads()
    memory = process.memory_info().rss
    for _ in range(2):
        for raw in CASES.values():
            with connect(server) as sock, contextlib.suppress(OSError):
                sock.settimeout(0.02)
                sock.sendall(raw)
                sock.recv(100)
    wait_for(lambda: busy() == 0)
    wait_for(lambda: connections() == 0)
    assert process.num_fds() <= files
    assert process.num_threads() <= threads + 4, "a pool of threads may fill up, to its limit"
    assert process.memory_info().rss < memory + (48 << 20)
    assert "Traceback" not in server.output, server.output
    assert server.process.poll() is None
    reply = httpx.post(f"{server.url}{CHAT}", json=GOOD, timeout=60)
    assert reply.status_code == 200
