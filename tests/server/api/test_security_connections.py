"""Slow senders, readers that take nothing, crowds, and heads that are too large: each has an end,
and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from server.api import body as body_module
from server.engine.events import ContentDelta, Started
from server.middleware import MAX_HEADERS

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
BODY = {"messages": [{"role": "user", "content": "x"}]}


@pytest.fixture(scope="module")
def server(launch):
    return launch(
        header_timeout=0.8,
        body_timeout=0.8,
        send_timeout=1.5,
        max_connections=50,
        max_body_bytes=200_000,
    )


@contextlib.contextmanager
def connected(server, *, buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.settimeout(10)
        sock.connect(("127.0.0.1", server.port))
        yield sock


def answer(sock: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            found += piece
    return found


def goes_on_until_cut(sock: socket.socket, piece: bytes, seconds: float) -> bool:
    """Sends `piece` so many seconds after the other; whether that ended by the other side."""
    sock.settimeout(seconds)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        for _ in range(300):
            sock.sendall(piece)
            with contextlib.suppress(TimeoutError):
                if sock.recv(1000) == b"":
                    return True
        return False
    return True


def held(server, sock: socket.socket) -> bool:
    """Whether the server has its end of this connection open."""
    ours = sock.getsockname()[1]
    return any(
        c.laddr.port == server.port and c.raddr and c.raddr.port == ours
        for c in psutil.Process().net_connections()
    )


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def serves(server) -> bool:
    return server.http.get("/health/live").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\n", POST, POST + b"X: "])
def test_a_head_that_does_not_come_ends_the_connection(server, sent):
    with connected(server) as sock:
        sock.sendall(sent)
        found = answer(sock)
    assert not found if not sent else found.startswith(b"HTTP/1.1 408 ")
    assert serves(server)


def test_a_head_that_trickles_ends_all_the_same(server):
    """Each byte is a sign of life, and none gives more time."""
    with connected(server) as sock:
        assert goes_on_until_cut(sock, b"G", 0.1)
    assert serves(server)


def test_the_second_request_of_a_connection_has_the_same_limit(server):
    with connected(server) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"GET / HT")
        assert b"HTTP/1.1 408 " in answer(sock)


def test_a_body_that_trickles_ends(server):
    with connected(server) as sock:
        sock.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        sock.settimeout(0.1)
        found = b""
        for _ in range(20):
            with contextlib.suppress(OSError):
                sock.sendall(b" ")
                found += sock.recv(1000)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert not server.engine.requests


def test_the_rest_of_a_body_behind_its_answer_has_an_end(server):
    """413 comes at once; whoever goes on sending is not read for ever."""
    with connected(server) as sock:
        sock.sendall(POST + b"Content-Length: 999999999\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert goes_on_until_cut(sock, b" " * 1000, 0.02)


def test_a_reader_of_a_whole_answer_that_takes_nothing_is_cut(server, scripts):
    """Its answer is done, its connection would stay."""
    server.engine.script = [
        Started(1, 0), ContentDelta(0, "x" * 30_000_000), scripts.finished(),
    ]  # fmt: skip
    with connected(server, buffer=4096) as sock:
        body = json.dumps(BODY).encode()
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_for(lambda: held(server, sock))
        wait_for(lambda: not held(server, sock))
    server.engine.script = scripts.answer()


def test_another_protocol_is_not_taken_up_and_nothing_is_said_of_libraries(server, caplog):
    ask = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with connected(server) as sock:
        sock.sendall(ask)
        assert answer(sock).startswith(b"HTTP/1.1 200 ")
    assert "WebSocket" not in caplog.text


def test_a_reader_of_a_stream_that_takes_nothing_is_cut(server, scripts):
    """Its work ends and its connection is closed, though what it did not take cannot be sent."""
    server.engine.script = [Started(1, 0), *[ContentDelta(0, "x" * 65536)] * 1000]
    with connected(server, buffer=4096) as sock:
        body = json.dumps({**BODY, "stream": True}).encode()
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_for(lambda: held(server, sock))
        wait_for(lambda: not held(server, sock))
        assert server.engine.streams[-1].cancelled.is_set()
    server.engine.script = scripts.answer()


def test_bodies_that_are_being_received_have_a_bound_together(server, monkeypatch):
    """Who comes beyond it is told, at once; afterwards there is room again."""
    monkeypatch.setattr(body_module, "MAX_HELD_BYTES", 0)
    with contextlib.ExitStack() as crowd:
        socks = [crowd.enter_context(connected(server)) for _ in range(3)]
        for sock in socks:
            head = POST + b"Connection: close\r\nContent-Length: 200000\r\n\r\n"
            with contextlib.suppress(OSError):
                sock.sendall(head + b" " * 199_999)
        found = [answer(sock)[:12] for sock in socks]
    assert found.count(b"HTTP/1.1 503") == 1, "two are within it, and time out"
    assert server.chat().status_code == 200
    assert body_module._held_bytes == 0


def test_a_slow_reader_who_reads_gets_all(server, scripts):
    text = "y" * 3_000_000
    server.engine.script = [Started(1, 0), ContentDelta(0, text), scripts.finished()]
    with connected(server, buffer=65536) as sock:
        body = json.dumps(BODY).encode()
        sock.sendall(
            POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        found = b""
        while piece := sock.recv(200_000):
            found += piece
            time.sleep(0.05)
    assert text.encode() in found
    server.engine.script = scripts.answer()


def test_a_crowd_of_half_heads_does_not_keep_others_out(server):
    """As many as there may be, then the next ones are told; soon all of them are gone."""
    with contextlib.ExitStack() as crowd:
        socks = [crowd.enter_context(connected(server)) for _ in range(60)]
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(POST)
        found = [answer(sock) for sock in socks]
    assert any(text.startswith(b"HTTP/1.1 503 ") for text in found)
    assert sum(text.startswith(b"HTTP/1.1 408 ") for text in found) >= 40
    assert serves(server)
    assert server.chat().status_code == 200


@pytest.mark.parametrize("count", [MAX_HEADERS - 1, MAX_HEADERS, 2000])
def test_too_many_headers(server, count):
    lines = b"".join(b"X-%d: 1\r\n" % i for i in range(count))
    with connected(server) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines)
        sock.sendall(b"\r\n")
        found = answer(sock)
    assert found.startswith(b"HTTP/1.1 403 " if count + 2 <= MAX_HEADERS else b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "line",
    [
        b"X: " + b"x" * 70_000,
        b"X: " + b"x" * 1_000_000,
        b"\r\n".join(b"X: " + b"x" * 800 for _ in range(90)),
    ],
)
def test_a_head_that_is_too_large(server, line):
    with connected(server) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(POST + line + b"\r\n\r\n")
        found = answer(sock)
    assert found == b"" or found.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert serves(server)


def test_malformed_http_gets_our_error(server):
    with connected(server) as sock:
        sock.sendall(b"NONSENSE\r\n\r\n")
        head, _, body = answer(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_two_ways_to_say_how_long_a_body_is(server, method):
    """On every path, also where no body is read."""
    with connected(server) as sock:
        sock.sendall(
            method + b" /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        found = answer(sock)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert found.count(b"HTTP/1.1") == 1, "nothing behind it is taken for a request"
