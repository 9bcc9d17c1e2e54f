"""A connection to the server sends at once: Nagle's delay would hold back a reply's second part."""

import asyncio
import socket

from server.serve import listen


def test_accepted_connections_do_not_wait_for_acknowledgements() -> None:
    async def option_of_an_accepted_connection() -> int:
        (listening, *others) = listen("localhost", 0)
        for other in others:
            other.close()
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sock = writer.get_extra_info("socket")
            seen.set_result(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(accept, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
            option = await asyncio.wait_for(seen, 5)
            writer.close()
            await writer.wait_closed()
            return option

    assert asyncio.run(option_of_an_accepted_connection()) != 0
