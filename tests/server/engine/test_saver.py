"""Which states go to the disk, and that one which cannot be saved is no trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model import state_files
from server.engine.cache_file import Entry, read_entry
from server.engine.disk_store import DiskStore
from server.engine.disk_tier import DiskTier
from server.engine.prompt_cache import PromptCache
from tests.server.engine.disk_states import MODEL, files, insert, reused, snapshot, span


def codec(**replaced: Any) -> Any:
    names = ("tensor_specs", "tensor_pieces", "read_span", "read_snapshot")
    return SimpleNamespace(**{name: getattr(state_files, name) for name in names} | replaced)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskTier]:
    tier = DiskTier.open(tmp_path, MODEL, 1 << 30)
    yield tier
    tier.close(5)


def entries(folder: Path) -> list[Entry]:
    """In the order in which they were written."""
    found = sorted(files(folder), key=lambda file: (file.stat().st_mtime_ns, file.stat().st_ino))
    return [read_entry(file, MODEL) for file in found]


def states(folder: Path) -> list[int]:
    return sorted(entry.end for entry in entries(folder) if entry.kind == "state")


def work(cache: PromptCache, disk: DiskTier) -> None:
    for _ in range(10_000):
        if not cache.idle_work():
            break
    else:
        pytest.fail("it never ends")
    assert disk.flush(30)


def test_what_a_state_stands_on_is_written_before_it(tmp_path: Path, disk: DiskTier):
    cache = PromptCache(1 << 30, disk)
    for end in (3, 6, 9):
        insert(cache, list(range(end)))
    work(cache, disk)
    written = entries(tmp_path)
    assert len(written) == 6
    for number, entry in enumerate(written):
        needed = entry.parent if entry.kind == "span" else entry.address
        before = {other.address for other in written[:number] if other.kind == "span"}
        assert needed in {b"", *before}


def test_only_states_that_save_something_are_written(tmp_path: Path, disk: DiskTier):
    """With states at every token from 600 on, each one in 128 tokens further is written."""
    cache = PromptCache(1 << 30, disk)
    tokens = list(range(640))
    for end in range(600, 640):
        start = cache.anchor(tokens[:end], end)
        cache.insert(tokens[:end], start, span([7] * (end - start), 0), snapshot([7] * end))
    work(cache, disk)
    assert states(tmp_path) == list(range(600, 640, 5))


def test_a_large_state_has_to_save_more(tmp_path: Path, disk: DiskTier):
    import mlx.core as mx

    from model.state import RecurrentSnapshot

    cache = PromptCache(1 << 40, disk)
    large = mx.zeros((1, 1, 1024, 1024))  # 4 MiB: a little more than 16 tokens
    for end in (15, 20, 30, 37):
        tokens = list(range(end))
        start = cache.anchor(tokens, end)
        kept = RecurrentSnapshot((large[:, :, :1, :1],), (large,), end)
        cache.insert(tokens, start, span(tokens, start), kept)
    work(cache, disk)
    assert states(tmp_path) == [20, 37]


def test_at_the_end_the_newest_conversations_go_first(tmp_path: Path, disk: DiskTier):
    cache = PromptCache(1 << 30, disk)
    for number in range(4):
        for end in (3, 6):
            insert(cache, [number, *range(end)])
    cache.close(30)
    written = [entry.address for entry in entries(tmp_path) if entry.kind == "state"]
    expected: list[bytes] = []
    for end in (6, 3):
        for number in reversed(range(4)) if end == 6 else range(4):
            hasher = disk.hasher("")
            hasher.update(b"".join(t.to_bytes(4, "little") for t in [number, *range(end)]))
            expected.append(hasher.digest()[:16])
    assert written == expected


def test_what_is_used_again_is_saved_again_when_the_disk_lost_it(tmp_path: Path, disk: DiskTier):
    cache = PromptCache(1 << 30, disk)
    insert(cache, [1, 2, 3])
    work(cache, disk)
    for file in files(tmp_path):
        file.unlink()
    insert(cache, [9])
    work(cache, disk)  # sees that they are gone
    assert len(files(tmp_path)) == 2
    assert reused(cache, [1, 2, 3, 4]) == 3
    work(cache, disk)
    assert len(files(tmp_path)) == 4


def test_a_conversation_that_would_fill_the_disk_is_not_saved(tmp_path: Path):
    disk = DiskTier.open(tmp_path, MODEL, 4 * 4096)
    cache = PromptCache(1 << 30, disk)
    insert(cache, list(range(200)))
    work(cache, disk)
    assert files(tmp_path) == []
    insert(cache, [1, 2, 3])
    work(cache, disk)
    assert len(files(tmp_path)) == 2
    disk.close(5)


def test_what_finds_no_room_is_not_tried_for_ever(
    tmp_path: Path, disk: DiskTier, monkeypatch: pytest.MonkeyPatch
):
    tried: list[int] = []

    def no_room(store: DiskStore, nbytes: int) -> bool:
        tried.append(nbytes)
        return False

    monkeypatch.setattr(DiskStore, "make_room", no_room)
    cache = PromptCache(1 << 30, disk)
    insert(cache, [1, 2])
    for _ in range(50):
        cache.idle_work()
        assert disk.flush(10)
    assert len(tried) == 1
    assert files(tmp_path) == []
    monkeypatch.undo()
    assert reused(cache, [1, 2, 3]) == 2
    work(cache, disk)
    assert len(files(tmp_path)) == 2, "tried again once it served"


@pytest.mark.parametrize("error", [RuntimeError("[metal] lost"), ValueError("no")])
def test_a_state_that_cannot_be_copied_is_left_out(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
):
    def fails(state: Any) -> Iterator[bytes]:
        if state.nbytes == snapshot([1]).nbytes:
            raise error
        yield from state_files.tensor_pieces(state)

    disk = DiskTier.open(tmp_path, MODEL, 1 << 30, codec=codec(tensor_pieces=fails))
    cache = PromptCache(1 << 30, disk)
    insert(cache, [1, 2])
    insert(cache, [3, 4, 5, 6])
    work(cache, disk)
    assert states(tmp_path) == []
    assert "cannot be saved" in caplog.text
    assert reused(cache, [1, 2, 3]) == 2
    assert disk.writing
    assert not list(tmp_path.glob("*/.*"))
    disk.close(5)


def test_a_state_of_a_type_that_no_file_holds_is_left_out(tmp_path: Path):
    def refuses(state: Any) -> Any:
        raise ValueError("not a type of states")

    disk = DiskTier.open(tmp_path, MODEL, 1 << 30, codec=codec(tensor_specs=refuses))
    cache = PromptCache(1 << 30, disk)
    insert(cache, [1, 2])
    work(cache, disk)
    assert files(tmp_path) == []
    disk.close(5)
