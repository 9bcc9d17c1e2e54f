"""What the engine cannot survive ends the process, soon and with a status that says so."""

import signal
import time

import httpx
import pytest

from tests.e2e.conftest import COUNT, LONG, wait_for

EXIT_ENGINE_DEAD = 70


def dies(server, words, began):
    """The health tells why, then the process is gone; all within 5 s of `began`."""
    reasons = []
    while server.server.process.poll() is None and time.monotonic() < began + 10:
        try:
            health = httpx.get(f"{server.server.url}/health", timeout=1)
        except httpx.HTTPError:
            continue
        if health.json()["status"] == "dead":
            assert health.status_code == 503
            reasons.append(health.json()["reason"])
    status = server.server.process.wait(10)
    took = time.monotonic() - began
    assert status == EXIT_ENGINE_DEAD, server.server.output
    assert took < 5
    assert reasons, "nobody could ask why"
    assert words in reasons[-1]
    assert words in server.server.output


def in_the_middle(server, text=COUNT, **fields):
    server.arm("slow", 0.05)
    stream = server.send(text, **fields)
    wait_for(lambda: stream.content)
    return stream


def test_a_second_failure_soon_after_the_first(start_faulty):
    server = start_faulty()
    server.arm("step-error")
    assert server.post(COUNT).status_code == 500
    assert server.health()["status"] == "ok"
    stream = in_the_middle(server)
    server.arm("step-error")
    began = time.monotonic()
    dies(server, "two steps failed", began)
    assert stream.end().failed


def test_a_self_test_that_fails(start_faulty):
    server = start_faulty()
    stream = in_the_middle(server)
    server.arm("prefill-error")  # the test begins with a prefill
    server.arm("step-error")
    dies(server, "self-test failed", time.monotonic())
    assert stream.end().failed


@pytest.mark.parametrize("where", ["prefill", "step"])
def test_a_call_that_does_not_return(start_faulty, where):
    server = start_faulty("--watchdog", "1")
    server.arm(f"{where}-hang")
    stream = server.send(COUNT)
    wait_for(lambda: not (server.folder / f"{where}-hang").exists())
    began = time.monotonic() + 1  # from where the watchdog's limit is passed
    dies(server, "did not return within 1 s", began)
    assert stream.end().failed
    assert stream.errors == ["engine_dead"]
    assert "in strike" in server.server.output  # the log says where it hung


def test_a_worker_that_is_killed(start_faulty):
    server = start_faulty()
    streams = [in_the_middle(server), server.send("Count from 1 to 19.", stream=False)]
    server.arm("step-kill")
    began = time.monotonic()
    dies(server, "Killed", began)
    for reading in streams:
        assert reading.end().failed
        assert reading.errors == ["engine_dead"]


@pytest.mark.parametrize("stream", [False, True])
def test_sigterm_lets_streams_finish_and_keeps_the_cache(start_faulty, tmp_path, stream):
    disk = ("--disk-cache", str(tmp_path))
    server = start_faulty(*disk)
    server.arm("slow", 0.02)
    reading = server.send(COUNT, stream=stream)
    wait_for(lambda: server.health()["active"])
    server.server.process.send_signal(signal.SIGTERM)
    reading.end()
    assert reading.status == 200
    assert not reading.errors
    assert not reading.cut
    assert server.server.process.wait(20) == 0
    later = start_faulty(*disk).ask(COUNT)
    assert later["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_sigterm_has_an_end_with_a_proper_last_frame(start_faulty, phase):
    server = start_faulty("--drain-timeout", "1", "--max-batch", "1")
    server.arm("slow", 0.2)
    text = LONG if phase == "prefill" else COUNT
    before = len(server.calls())
    readings = [server.send(text)]
    if phase == "decode":
        wait_for(lambda: readings[0].content)
    else:
        wait_for(lambda: any("prefill" in call for call in server.calls()[before:]))
    if phase == "queue":
        readings += [server.send("Hello"), server.send("Hello", stream=False)]
        wait_for(lambda: server.health()["queued"] == 2)
    began = time.monotonic()
    server.server.process.send_signal(signal.SIGTERM)
    for reading in readings:
        assert reading.end(5).failed
        assert reading.errors == ["unavailable"]
    assert server.server.process.wait(10) == 0
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("slow", [0.0, 1.0])
def test_kill_9_forgets_no_finished_turn(start_faulty, tmp_path, slow):
    disk = ("--disk-cache", str(tmp_path))
    server = start_faulty(*disk)
    server.arm("slow-disk", slow)
    server.ask(COUNT)
    # Idle time is when the cache is written; a state is there once its file has its name.
    wait_for(lambda: list(tmp_path.rglob("*.state.safetensors")))
    assert server.health()["disk_cache_bytes"] > 0
    server.server.process.kill()
    server.server.process.wait()
    later = start_faulty(*disk).ask(COUNT)
    assert later["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
