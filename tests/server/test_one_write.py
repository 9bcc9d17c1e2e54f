"""The head of an answer and what follows it go out together; nothing is lost at a close."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from server.one_write import OneWrite
from tests.conftest import ServerProcess


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 5

    def get_extra_info(self, name: str) -> str:
        return name


def run(test: Any) -> Transport:
    transport: Any = Transport()

    async def all_of_it() -> None:
        await test(OneWrite(transport, asyncio.get_running_loop()))

    asyncio.run(all_of_it())
    return transport


HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


def test_a_head_goes_with_what_follows():
    async def test(out: OneWrite) -> None:
        out.write(HEAD)
        out.write(b"")
        out.write(b"body")
        out.write(b"more")

    assert run(test).written == [HEAD + b"body", b"more"]


def test_a_head_waits_for_one_turn_only():
    async def test(out: OneWrite) -> None:
        out.write(HEAD)
        await asyncio.sleep(0)
        out.write(b"body")
        out.write(HEAD)
        out.write(HEAD)
        await asyncio.sleep(0)

    assert run(test).written == [HEAD, b"body", HEAD, HEAD]


def test_a_close_comes_after_what_was_written():
    async def test(out: OneWrite) -> None:
        out.write(HEAD)
        out.close()
        out.write(HEAD)
        await asyncio.sleep(0)

    found = run(test)
    assert (found.written, found.closed) == ([HEAD], True)


def test_what_is_unsent_is_the_transports_own():
    async def test(out: OneWrite) -> None:
        out.write(HEAD)
        assert out.get_write_buffer_size() == 5
        assert out.get_extra_info("peername") == "peername"

    assert run(test).written == [HEAD]


def test_head_and_body_of_an_answer_arrive_together(live_server: ServerProcess):
    host, port = live_server.url.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            first = sock.recv(65536)
        assert first.endswith(b'{"status":"alive"}')
