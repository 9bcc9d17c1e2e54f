"""The serving process: start, clients that leave, load, and the end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

COUNT = {"messages": [{"role": "user", "content": "Count from 1 to 20."}], "temperature": 0}


def run(*args, **options):
    return subprocess.run(
        [sys.executable, "-m", "server", *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def active(url):
    health = httpx.get(f"{url}/health").json()
    return health["active"] + health["queued"]


def wait_for(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_banner(live_server):
    assert f"in a browser: {live_server.url}/\n" in live_server.output
    assert "demo model" in live_server.output
    assert "curl http://" in live_server.output


def test_one_line_says_which_device_and_blas(live_server):
    [line] = [line for line in live_server.lines if "BLAS: " in line]
    assert "device: " in line


def test_health_and_root(live_server):
    assert httpx.get(f"{live_server.url}/health").json()["status"] == "ok"
    assert httpx.head(live_server.url).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_work(live_server, stream):
    body = json.dumps({**COUNT, "temperature": 2, "n": 8, "stream": stream}).encode()
    host, port = live_server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        wait_for(lambda: active(live_server.url) > 0)
    wait_for(lambda: active(live_server.url) == 0, 3)


def test_two_clients_at_once(live_server):
    began = threading.Barrier(2)

    def ask(_):
        began.wait()
        reply = httpx.post(f"{live_server.url}/v1/chat/completions", json=COUNT, timeout=60)
        return reply.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert first == second
    assert "20" in first


def worst_answer(client, url, running):
    """Longest wait in seconds for the liveness answer while `running()` is true."""
    worst = 0.0
    while running():
        before = time.perf_counter()
        client.get(f"{url}/health/live")
        worst = max(worst, time.perf_counter() - before)
        time.sleep(0.005)
    return worst


def test_the_loop_stays_free_while_a_megabyte_is_read(live_server):
    """Anybody else's answer waits less than 50 ms longer than it does on this machine anyway; a
    noisy machine gets several tries."""
    content = json.dumps({"messages": [{"role": "user", "content": "lorem ipsum " * 90_000}]})
    url = live_server.url
    tries = []
    with httpx.Client() as other, ThreadPoolExecutor(1) as pool:
        for _ in range(8):
            end = time.monotonic() + 0.5
            idle = worst_answer(other, url, lambda end=end: time.monotonic() < end)
            reply = pool.submit(
                httpx.post, f"{url}/v1/chat/completions", content=content, timeout=60
            )
            busy = worst_answer(other, url, lambda reply=reply: not reply.done())
            assert reply.result().status_code == 400
            tries.append((busy, idle))
            if busy < 0.05 + idle:
                return
    pytest.fail(f"worst waits in seconds (busy, idle) of each try: {tries}")


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_finishes_what_runs_and_exits_0(start_serving, kind):
    if signal.getsignal(kind) is signal.SIG_IGN:
        pytest.skip("these tests run under nohup, and so does the server")
    server = start_serving()
    body = {**COUNT, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(kind)
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert server.process.wait(30) == 0
    wait_for(lambda: "server.serve: stopped\n" in server.output)
    assert "stopping: answers being written: " in server.output
    assert "Traceback" not in server.output


def test_a_stop_does_not_wait_for_half_a_request(start_serving):
    server = start_serving("--drain-timeout", "600", "--body-timeout", "600")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")  # it is read from now on
        sock.sendall(b'{"messages": [')
        server.process.send_signal(signal.SIGTERM)
        told = b""
        while piece := sock.recv(65536):
            told += piece
    assert told.startswith(b"HTTP/1.1 503 ")
    assert b'"code": "unavailable"' in told
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.output


def test_sigterm_while_loading_exits_0():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: listens(port), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.skipif(
    sys.platform == "darwin" or shutil.which("g++") is None,
    reason="steps are compiled by g++ on a CPU",
)
def test_ctrl_c_while_steps_are_compiled_exits_0(tmp_path):
    """In a terminal it reaches the compiler too, whose failure is then not the news."""
    command = [sys.executable, "-m", "server", "serve", "--port", "0"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # where no step is compiled yet
    ) as process:
        wait_for(lambda: any(tmp_path.glob("**/*.cpp")), 60)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr is not None
        output = process.stderr.read()
    assert "Traceback" not in output
    assert "could not" not in output


def listens(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_drain_has_an_end(start_serving):
    server = start_serving("--drain-timeout", "0")
    body = {**COUNT, "stream": True, "temperature": 2, "top_p": 1, "n": 8}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        data = [line for line in lines if line.startswith("data: ")]
    last = data[-1].removeprefix("data: ")
    assert last == "[DONE]" or json.loads(last)["error"]["type"] == "server_error"
    assert server.stop(15) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_is_now(start_serving, second):
    server = start_serving("--drain-timeout", "60")
    body = {**COUNT, "stream": True, "temperature": 2, "top_p": 1, "n": 8}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not listens(int(server.url.rsplit(":", 1)[1])))
        began = time.monotonic()
        server.process.send_signal(second)
        data = [line for line in lines if line.startswith("data: ")]
    assert server.process.wait(10) == 0
    assert time.monotonic() - began < 3
    last = data[-1].removeprefix("data: ")
    assert last == "[DONE]" or json.loads(last)["error"]["code"] == "unavailable"


def test_a_bad_checkpoint_is_one_line_and_status_1(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    began = time.monotonic()
    result = run("serve", "--port", "0", "--model", str(tmp_path))
    assert result.returncode == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("mxserve: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    assert time.monotonic() - began < 30


def test_a_missing_folder_is_one_line_and_status_1(tmp_path):
    result = run("serve", "--port", "0", "--model", str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "nothing" in result.stderr


def test_a_port_in_use_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", "--host", "127.0.0.1", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr.startswith(f"mxserve: cannot listen on 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--host", "0.0.0.0"], "api_key"), (["--effort-budgets", "low=x"], "EFFORT=TOKENS")],
)
def test_bad_settings_are_said(flags, words):
    result = run("serve", *flags)
    assert result.returncode == 78
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_cache_command_is_there(tmp_path):
    assert "nothing is kept there" in run("cache", "ls", "--folder", str(tmp_path)).stdout
    assert run("cache", "clear", "--yes", "--folder", str(tmp_path)).returncode == 0
    assert "cache" in run("--help").stdout


def test_version_and_usage():
    assert run("--version").stdout.startswith("mxserve ")
    assert run().returncode == 2
    assert run("nonsense").returncode == 2
    assert "--effort-budgets" in run("serve", "--help").stdout
