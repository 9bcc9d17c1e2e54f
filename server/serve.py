"""`mxserve serve`: the process around the engine and the application.

Knows sockets, signals, start, drain and exit statuses; not HTTP and not the model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

import uvicorn

from model import device
from model.errors import CheckpointError
from server import __version__, log
from server.app import create_app
from server.connection import ConnectionLimits, limited, room_for
from server.engine import Engine, ModelInfo
from server.loading_bar import LoadingBar
from server.log_file import LogFile
from server.middleware import MAX_HEAD_BYTES
from server.settings import Settings, unknown_variables
from server.stay_awake import stay_awake

logger = logging.getLogger(__name__)

EXIT_STARTUP = 1
EXIT_ENGINE_DEAD = 70
DEATH_CHECK_S = 0.25
DEATH_TOLD_S = 1.0  # how long a dead engine's /health can be asked for the reason
DEATH_GRACE_S = 4.0
GRACE_S = 5.0
HURRY_S = 1.0


class Server(uvicorn.Server):
    """uvicorn that drains the engine while it waits for connections: what runs finishes or gets
    an error of its own, and no stream is cut. A second signal ends what runs at once."""

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_s: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_s = drain_s
        self._hurry = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._hurry.set)
        else:
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        health = self._engine.health()
        if health.status == "loading":
            _exit_later(0, GRACE_S)  # a load cannot be interrupted
        text = "stopping: answers being written: %d, waiting: %d; they have %g s"
        logger.info(text, health.active, health.queued, self._drain_s)
        hurrying = asyncio.create_task(self._stop_at_once())
        draining = asyncio.create_task(self._engine.stop(self._drain_s))
        await super().shutdown(sockets)
        await draining
        hurrying.cancel()
        logger.info("stopped")

    async def _stop_at_once(self) -> None:
        await self._hurry.wait()
        logger.warning("told to stop again: requests in flight end now")
        _exit_later(0, HURRY_S)
        await self._engine.stop(0)


def serve(settings: Settings) -> int:
    """Serves until a signal or the engine's death; returns the exit status."""
    log.configure(settings.log_level, settings.log_format)
    if settings.log_file is not None:
        try:
            logging.getLogger().addHandler(LogFile(settings.log_file))
        except OSError as error:
            return _fail(f"cannot write the log to {settings.log_file}: {error.strerror or error}")
    for name in unknown_variables(os.environ):
        logger.warning("the environment has %s, which is no setting of this server", name)
    # Until uvicorn takes the signal there is nothing to drain; it raises it again when it has
    # drained. Both times status 0 is right.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a closed terminal; not under nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        sockets = listen(settings.host, settings.port)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        return _fail(f"cannot listen on {where}: {error.strerror or error}")
    room_for(settings.max_connections)
    here = device.current()
    logger.info(
        "device: %s (%s), %s; BLAS: %s", here.kind, here.name, here.compute_dtype, here.blas
    )
    try:
        return asyncio.run(_run(settings, sockets))
    except KeyboardInterrupt:
        return 0


async def _run(settings: Settings, sockets: list[socket.socket]) -> int:
    url = address(sockets[0])
    engine = Engine(settings.engine(), progress=LoadingBar(sys.stderr))
    server = Server(
        uvicorn.Config(
            create_app(settings, engine),
            http=http_of(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            timeout_graceful_shutdown=int(settings.drain_timeout + GRACE_S),
        ),
        engine,
        settings.drain_timeout,
    )
    serving = asyncio.create_task(server.serve(sockets=sockets))
    starting = asyncio.create_task(engine.start())
    await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():  # a signal came while the model was loading
        starting.cancel()
        return 0
    failure = starting.exception()
    if failure is not None and server.should_exit:
        await serving  # Ctrl-C in a terminal ends a compiler at work too, and so the load
        return 0
    if failure is not None:
        _exit_later(EXIT_STARTUP, GRACE_S)
        server.should_exit = True
        status = _fail(_told(failure))
        await serving
        return status
    if server.should_exit:  # a signal came just before
        await serving
        return 0
    keyed = bool(settings.api_key) or settings.key_file is not None
    sys.stderr.write(banner(engine.info, url, page=not settings.no_page, keyed=keyed))
    sys.stderr.flush()
    dying = asyncio.create_task(_death(engine))
    awake = asyncio.create_task(stay_awake(lambda: _busy(engine)))
    await asyncio.wait({serving, dying}, return_when=asyncio.FIRST_COMPLETED)
    awake.cancel()
    if not dying.done():
        dying.cancel()
        await serving
        return 0
    logger.critical("the engine died: %s", dying.result())
    _exit_later(EXIT_ENGINE_DEAD, DEATH_GRACE_S)
    await asyncio.wait({serving}, timeout=DEATH_TOLD_S)
    server.should_exit = True
    await serving
    return EXIT_ENGINE_DEAD


def http_of(settings: Settings) -> type[asyncio.Protocol]:
    """What speaks HTTP/1.1 here."""
    return limited(
        ConnectionLimits(settings.max_connections, settings.header_timeout, settings.send_timeout)
    )


def _busy(engine: Engine) -> bool:
    health = engine.health()
    return health.active + health.queued > 0


async def _death(engine: Engine) -> str:
    """Returns the reason when the engine is dead."""
    while (health := engine.health()).status != "dead":  # noqa: ASYNC110 (nobody calls back)
        await asyncio.sleep(DEATH_CHECK_S)
    return health.reason or "no reason given"


def _exit_later(status: int, seconds: float) -> None:
    """Ends the process even when a thread does not end."""
    timer = threading.Timer(seconds, os._exit, [status])
    timer.daemon = True
    timer.start()


def _told(error: BaseException) -> str:
    if isinstance(error, (CheckpointError, OSError, ValueError)):
        what, *problems = str(error).splitlines() or [""]
        return " ".join(f"{what} {'; '.join(problems)}".split())
    logger.error("the model could not be loaded", exc_info=error)
    return f"the model could not be loaded: {error!r}"


def _fail(message: str) -> int:
    print(f"mxserve: {message}", file=sys.stderr)
    return EXIT_STARTUP


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets for `host`; localhost is both loopback addresses, where there are two.

    Raises OSError.
    """
    if host != "localhost":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return [_bound(family, host, port)]
    first = _bound(socket.AF_INET, "127.0.0.1", port)
    try:
        return [first, _bound(socket.AF_INET6, "::1", first.getsockname()[1])]
    except OSError:  # no IPv6 here
        return [first]


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    # asyncio turns Nagle's delay off only where the protocol is named: 40 ms a reply otherwise.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError:
        sock.close()
        raise
    return sock


def address(sock: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def banner(info: ModelInfo, url: str, *, page: bool, keyed: bool) -> str:
    """What a newcomer needs to see: where, which model, a line to try. keyed: it needs a key."""
    here = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    lines = [
        f"mxserve {__version__} is ready at {url}/v1",
        f"model: {info.id} (context {info.context_length:,} tokens)",
    ]
    if page:
        lines.append(f"in a browser: {here}/")
    if info.is_demo:
        lines.append("demo model: tiny, made to try the server; --model PATH|ID serves a real one")
    body = '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    key = "-H 'Authorization: Bearer KEY' " if keyed else ""
    lines += ["", "Try it:", f"  curl {here}/v1/chat/completions {key}-d '{body}'", ""]
    return "\n".join(lines) + "\n"
