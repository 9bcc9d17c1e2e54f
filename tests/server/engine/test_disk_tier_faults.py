"""The disk tier when things go wrong: a full disk, a folder that cannot be, kill -9 while writing,
files that vanish, a disk that hangs. Serving goes on, and nothing wrong ever comes back."""

from __future__ import annotations

import errno
import logging
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server.engine import cache_file
from server.engine.background import Background
from server.engine.cache_folder import subfolder
from server.engine.disk_tier import QUEUE_BYTES, DiskTier
from server.engine.prompt_cache import PromptCache
from tests.server.engine.disk_states import MODEL, files, insert, open_cache, reused

ROOT = Path(__file__).parents[3]
CHAT = list(range(40, 80))


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that has this folder's helpers at hand; its standard output is a pipe."""
    setup = "import sys, time, pathlib, model\nfrom tests.server.engine.disk_states import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", setup + code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WRITE_FOR_EVER = """
cache = open_cache(pathlib.Path(sys.argv[1]), limit=40 * 4096)
print("ready", flush=True)
number = 0
while True:
    number += 1
    chat = [int(sys.argv[2]), number % 7, *range(number % 30)]
    insert(cache, chat)
    reused(cache, [*chat, 1])
    while cache.idle_work():
        pass
"""


def test_kill_9_while_writing_leaves_nothing_wrong(tmp_path: Path):
    """Two processes write to one folder and are killed at a random moment, again and again. After
    each, whatever the folder has is whole."""
    folder, moments = tmp_path / "cache", random.Random(1)
    found = 0
    for round in range(8):
        writers = [child(WRITE_FOR_EVER, folder, number) for number in range(2)]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n", writer.communicate()[1]
        time.sleep(moments.uniform(0.02, 0.4))
        for writer in writers:
            writer.kill()
            assert "Traceback" not in writer.communicate()[1]
        cache = open_cache(folder)
        for number in range(2):
            for turn in range(7):
                chat = [number, turn, *range(31)]
                found += reused(cache, chat)  # compares to the bit
        cache.close()
        assert not list(folder.glob("*/.*")), "what was half written is removed"
        for file in files(folder):
            entry = cache_file.read_entry(file, MODEL)
            assert cache_file.read_tensors(file, MODEL)[0] == entry, round
    assert found, "something was kept"


def test_a_full_disk_turns_writing_off_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cache = open_cache(tmp_path / "cache")
    insert(cache, CHAT[:20])
    cache.close()
    disk = DiskTier.open(tmp_path / "cache", MODEL, 1 << 30)
    cache = PromptCache(1 << 30, disk)
    real = os.write

    def full(file: int, data: bytes) -> int:
        if len(data) > 100:
            return real(file, data[:100])  # as much as still fits
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_file.os, "write", full)
    for number in range(5):
        insert(cache, [number, *CHAT])
        while cache.idle_work():
            pass
    assert disk.flush(10)
    monkeypatch.undo()
    assert not disk.writing
    assert caplog.text.count("no longer written to") == 1
    assert reused(cache, [*CHAT[:20], 1]) == 20, "reading goes on"
    assert [reused(cache, [number, *CHAT, 1]) for number in range(5)] == [41] * 5
    assert not list((tmp_path / "cache").glob("*/.*")), "what was half written is removed"
    cache.close()
    assert len(files(tmp_path / "cache")) == 2


FILE_LIMIT = """
import resource, logging
logging.basicConfig(level="WARNING")
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
cache = open_cache(pathlib.Path(sys.argv[1]))
insert(cache, list(range(10)))
insert(cache, list(range(100)))
cache.close()
assert reused(cache, list(range(101))) == 100
print("served")
"""


def test_a_limit_on_file_sizes_is_met_like_a_full_disk(tmp_path: Path):
    folder = tmp_path / "cache"
    process = child(FILE_LIMIT, folder)
    said, warned = process.communicate(timeout=120)
    assert said == "served\n", warned
    assert "no longer written to" in warned
    assert not list(folder.glob("*/.*"))
    cache = open_cache(folder)
    assert reused(cache, list(range(101))) in (0, 10)
    cache.close()


@pytest.mark.parametrize("place", ["file", "below a file"])
def test_a_folder_that_cannot_be_turns_the_tier_off(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
):
    blocked = tmp_path / "blocked"
    blocked.write_text("")
    disk = DiskTier.open(blocked if place == "file" else blocked / "x", MODEL, 1 << 30)
    assert (disk.reading, disk.writing, disk.nbytes, disk.entries) == (False, False, 0, 0)
    assert "prompt cache on disk: off" in caplog.text
    cache = PromptCache(1 << 30, disk)
    insert(cache, CHAT)
    assert not cache.idle_work()
    assert reused(cache, [*CHAT, 1]) == 40
    cache.close()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert not DiskTier.open(folder, MODEL, 1 << 30).reading


def test_files_that_vanish_are_missed_and_written_again(tmp_path: Path):
    folder = tmp_path / "cache"
    cache = open_cache(folder)
    insert(cache, CHAT)
    cache.close()
    disk = DiskTier.open(folder, MODEL, 1 << 30)
    cache = PromptCache(1 << 30, disk)
    for file in files(folder):
        file.unlink()
    assert reused(cache, [*CHAT, 1]) == 0
    insert(cache, CHAT)
    while cache.idle_work():
        pass
    assert disk.flush(10)
    subfolder(folder, MODEL).rename(tmp_path / "cleared")
    insert(cache, [*CHAT, 1])
    cache.close()
    assert disk.entries, "the folder was made again"
    assert files(folder)


def test_what_is_evicted_while_it_is_written_is_let_go(tmp_path: Path):
    disk = DiskTier.open(tmp_path / "cache", MODEL, 1 << 30)
    cache = PromptCache(1 << 30, disk)
    for steps in range(12):
        insert(cache, CHAT)
        for _ in range(steps):
            cache.idle_work()
        cache.shed(1 << 30)
        assert not cache.idle_work()
        assert disk.flush(10)
        assert not list((tmp_path / "cache").glob("*/.*")), steps
    cache.close()


def test_a_disk_that_hangs_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hangs, go_on = threading.Event(), threading.Event()
    real = os.fsync

    def hang(file: int) -> None:
        hangs.set()
        go_on.wait(30)
        real(file)

    monkeypatch.setattr(cache_file.os, "fsync", hang)
    cache = open_cache(tmp_path / "cache")
    insert(cache, CHAT)
    slowest = 0.0
    for number in range(60):
        insert(cache, [number, 1])
        began = time.monotonic()
        cache.idle_work()
        assert reused(cache, [*CHAT, 1]) == 40
        slowest = max(slowest, time.monotonic() - began)
    assert hangs.wait(10)
    assert files(tmp_path / "cache") == [], "not before it is whole on the disk"
    began = time.monotonic()
    cache.close(0.2)
    assert time.monotonic() - began < 5
    assert slowest < 2
    go_on.set()


def test_what_waits_to_be_written_is_bounded():
    background = Background("test", 100)
    go_on = threading.Event()
    done: list[int] = []

    def wait() -> None:
        go_on.wait(30)

    assert background.submit(wait)
    assert background.submit(lambda: done.append(1), 1_000), "one of any size"
    assert not background.submit(lambda: done.append(2), 1)
    assert not background.room(1, 0.01)
    assert background.submit(lambda: done.append(3)), "what takes no memory is always taken"
    go_on.set()
    assert background.room(100, 10)
    assert background.submit(lambda: done.append(4), 60)
    assert background.close(10)
    assert done == [1, 3, 4]
    assert not background.submit(lambda: done.append(5))


def test_work_that_fails_does_not_end_the_thread(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    background, done = Background("test", 100), threading.Event()

    def fail() -> None:
        raise ValueError("no")

    background.submit(fail, 10)
    background.submit(done.set)
    assert background.close(10)
    assert done.is_set()
    assert "a piece of work failed" in caplog.text


def test_a_long_prompt_passes_through_a_short_queue(tmp_path: Path):
    """A state many times larger than what may wait goes to the disk whole."""
    import mlx.core as mx

    from model.state import KVSpan, RecurrentSnapshot

    disk = DiskTier.open(tmp_path / "cache", MODEL, 1 << 40)
    cache = PromptCache(1 << 40, disk)
    tokens = list(range(1_000))
    keys = mx.arange(1_000 * 20_000, dtype=mx.float32).reshape(1, 1, 1_000, 20_000)
    state = mx.zeros((1, 2, 3, 3))
    assert keys.nbytes > QUEUE_BYTES
    cache.insert(
        tokens, 0, KVSpan((keys,), (keys,), 1_000), RecurrentSnapshot((state,), (state,), 1_000)
    )
    most = 0
    while cache.idle_work():
        most = max(most, disk.waiting_bytes)
    assert disk.flush(60)
    assert 0 < most <= QUEUE_BYTES
    assert disk.entries == 2
    cache.clear()
    hit = cache.lookup([*tokens, 1])
    assert hit is not None
    (found,) = hit.spans
    assert mx.array_equal(found.keys[0], keys)  # type: ignore[attr-defined]
    cache.close()
