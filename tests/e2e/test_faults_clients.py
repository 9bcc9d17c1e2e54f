"""Clients that leave, stop reading, come in crowds or take too long: slots come back."""

import json
import socket
import time

import pytest

from tests.e2e.conftest import COUNT, FRANCE, LONG, chat_body, wait_for


@pytest.fixture(scope="module")
def server(start_faulty):
    """One answer at a time, so that the next one waits."""
    return start_faulty("--max-batch", "1", "--max-queue", "3", "--send-timeout", "1")


@pytest.fixture(autouse=True)
def _calm(server):
    """Every test leaves an idle server behind, and one that still serves."""
    yield
    server.settle()
    assert server.serves()


def leave(sock):
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_in_the_queue(server, stream):
    server.arm("slow", 0.1)
    running = server.send(COUNT)
    wait_for(lambda: running.content)
    waiting = server.connect("Hello", stream=stream)
    wait_for(lambda: server.health()["queued"] == 1)
    leave(waiting)
    wait_for(lambda: server.health()["queued"] == 0, 2)
    assert server.health()["active"] == 1
    server.disarm("slow")
    assert running.end().finished


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_in_prefill(server, stream):
    server.arm("slow", 0.2)
    before = len(server.calls())
    sock = server.connect(f"{stream} {LONG}", stream=stream)
    wait_for(lambda: any(call.startswith("prefill") for call in server.calls()[before:]))
    leave(sock)
    wait_for(lambda: server.busy() == 0, 5)
    fed = [call for call in server.calls()[before:] if call.startswith("prefill")]
    time.sleep(0.5)
    assert [call for call in server.calls()[before:] if call.startswith("prefill")] == fed
    assert not any(call.startswith("step") for call in server.calls()[before:])


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_in_decode(server, stream):
    server.arm("slow", 0.1)
    before = len(server.calls())
    sock = server.connect(COUNT, stream=stream)
    wait_for(lambda: any(call.startswith("step") for call in server.calls()[before:]))
    leave(sock)
    wait_for(lambda: server.busy() == 0, 2)
    done = len(server.calls())
    time.sleep(0.3)
    assert len(server.calls()) <= done + 1  # the self check of an idle engine may decode once


def test_a_flood_is_answered_with_429(server):
    """Exactly as many are accepted as have a slot or a place in the queue."""
    server.arm("hold")
    crowd = [server.send(f"{FRANCE} ({i})") for i in range(12)]
    wait_for(lambda: sum(reading.status == 429 for reading in crowd) == 8)
    time.sleep(0.3)
    refused = [reading.end() for reading in crowd if reading.status == 429]
    assert len(refused) == 8
    for reading in refused:
        assert reading.errors == ["queue_full"]
        assert int(reading.headers["retry-after"]) >= 1
    server.disarm("hold")
    accepted = [reading.end() for reading in crowd if reading.status != 429]
    assert len(accepted) == 4
    assert all(reading.finished for reading in accepted)


def test_a_reader_that_stops_reading_is_cut(start_faulty):
    """The buffers of both sides are small; a stream of some hundred frames fills them. Others do
    not notice."""
    server = start_faulty("--send-timeout", "1")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = server.server.url.removeprefix("http://").split(":")
    sock.connect((host, int(port)))
    body = chat_body(COUNT, stream=True, n=8, temperature=2, top_p=1, max_tokens=400)
    raw = json.dumps(body).encode()
    sock.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
        % (len(raw), raw)
    )
    wait_for(lambda: server.busy() > 0)
    other = server.send(COUNT)
    wait_for(lambda: "stopped reading" in server.server.output)
    assert other.end().finished
    wait_for(lambda: server.busy() == 0)
    sock.close()
