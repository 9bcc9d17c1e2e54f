"""A client that leaves, or stops reading, ends its work."""

import contextlib
import json
import socket
import time

import httpx
import pytest

from server.engine.events import ContentDelta, Started

BODY = {"messages": [{"role": "user", "content": "x"}]}


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("silent", [False, True])
def test_12_leaving_cancels(served, scripts, stream, silent):
    served.engine.script = [60] if silent else [Started(1, 0), *[0.01, ContentDelta(0, "x")] * 6000]
    with contextlib.suppress(httpx.ReadTimeout):
        body = {**BODY, "stream": stream}
        with served.http.stream("POST", "/v1/chat/completions", json=body, timeout=0.3) as reply:
            next(reply.iter_bytes())
    [work] = served.engine.streams
    assert work.cancelled.wait(1.0)
    served.engine.script = scripts.answer()
    assert served.chat().status_code == 200


def test_a_finished_request_is_released(served):
    served.chat()
    served.chat(stream=True)
    wait_for(lambda: all(stream.cancelled.is_set() for stream in served.engine.streams))


def test_a_reader_that_stops_reading_is_cut(served):
    served.engine.script = [Started(1, 0), *[ContentDelta(0, "x" * 65536)] * 1000]
    body = json.dumps({**BODY, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        wait_for(lambda: served.engine.streams)
        assert served.engine.streams[0].cancelled.wait(10)


def test_leaving_while_the_body_is_sent(served):
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert served.chat().status_code == 200
    assert len(served.engine.requests) == 1


def test_http_1_0_client(served):
    body = json.dumps({**BODY, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", served.port)) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        text = b""
        while piece := sock.recv(65536):
            text += piece
    assert text.endswith(b"data: [DONE]\n\n")
