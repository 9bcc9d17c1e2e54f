"""deploy/replicas/nginx.conf, run for real on free ports with its files in a folder of its own."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT

CONFIG = ROOT / "deploy" / "replicas" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def configuration(folder: Path, listen: int, replicas: Sequence[int]) -> str:
    """The published file with other ports, and every path in `folder`."""
    text = CONFIG.read_text()
    for before, after in zip((8080, 8081, 8082), (listen, *replicas), strict=True):
        text, found = re.subn(rf"\b127\.0\.0\.1:{before}\b", f"127.0.0.1:{after}", text)
        assert found == 1, f"port {before} is in the file {found} times"
    paths = "".join(f"    {name}_temp_path {folder}/{name};\n" for name in TEMPORARY)
    text = text.replace("http {\n", f"http {{\n{paths}", 1)
    return f"pid {folder}/pid;\nerror_log {folder}/error.log;\ndaemon off;\n{text}"


@contextmanager
def proxy(folder: Path, replicas: Sequence[int]) -> Iterator[str]:
    """nginx before the replicas on these ports; gives its URL."""
    assert NGINX is not None
    listen = free_port()
    path = folder / "nginx.conf"
    path.write_text(configuration(folder, listen, replicas))
    error_log = folder / "error.log"
    process = subprocess.Popen(
        [NGINX, "-p", str(folder), "-e", str(error_log), "-c", str(path)], stderr=subprocess.PIPE
    )
    try:
        while True:
            assert process.poll() is None, error_log.read_text()
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", listen)) == 0:
                    break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listen}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
