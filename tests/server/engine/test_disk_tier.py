"""The prompt cache's disk tier with real arrays: what was cached is there after a restart, to the
bit; what is damaged is removed and never used; the cap holds."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from safetensors import safe_open

from server.engine import cache_file
from server.engine.cache_folder import subfolder
from server.engine.disk_index import on_disk
from server.engine.disk_tier import DiskTier, default_folder
from server.engine.prompt_cache import PromptCache
from tests.server.engine.disk_states import (
    MODEL,
    files,
    insert,
    open_cache,
    reused,
    snapshot,
    span,
)

CHAT = list(range(40, 80))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def saved(folder: Path) -> Path:
    """A conversation of three turns, saved and closed."""
    cache = open_cache(folder)
    for end in (10, 20, 40):
        insert(cache, CHAT[:end])
    cache.close()
    return folder


def test_a_restart_forgets_nothing(saved: Path):
    cache = open_cache(saved)
    assert cache.nbytes == 0, "tensors are read when a prompt asks for them"
    assert reused(cache, [*CHAT, 1]) == 40
    assert reused(cache, [*CHAT[:20], 1]) == 20
    assert reused(cache, [*CHAT[:30], 1]) == 20
    assert reused(cache, CHAT[:10]) == 0
    cache.check()
    assert cache.entries == 3
    cache.close()


def test_what_is_held_in_memory_is_not_read_again(saved: Path):
    cache = open_cache(saved)
    assert reused(cache, [*CHAT[:20], 1]) == 20
    for file in files(saved):
        if f'"end":"{40}"' not in file.read_bytes()[:600].decode(errors="replace"):
            file.unlink()
    assert reused(cache, [*CHAT, 1]) == 40, "only the last span and its state had to come"
    cache.check()
    cache.close()


def test_what_is_on_the_disk_is_not_written_again(saved: Path):
    before = {file: file.stat().st_ino for file in files(saved)}
    cache = open_cache(saved)
    assert reused(cache, [*CHAT, 1]) == 40
    insert(cache, [*CHAT, 1, 2])
    cache.close()
    after = {file: file.stat().st_ino for file in files(saved)}
    assert {file: after[file] for file in before} == before
    assert len(after) == len(before) + 2


def test_idle_work_alone_saves(folder: Path):
    disk = DiskTier.open(folder, MODEL, 1 << 30)
    cache = PromptCache(1 << 30, disk)
    insert(cache, CHAT)
    while cache.idle_work():
        pass
    assert disk.flush(10)
    assert not cache.idle_work(), "done"
    other = open_cache(folder)
    assert reused(other, [*CHAT, 1]) == 40
    cache.close()
    other.close()


def test_what_memory_gave_up_comes_back(saved: Path):
    cache = open_cache(saved)
    for end in (40, 20, 10, 40, 10, 20):
        assert reused(cache, [*CHAT[:end], 1]) == end
        assert cache.shed(100)
        cache.check()
    cache.shed(1 << 30)
    assert (cache.nbytes, cache.entries) == (0, 0)
    assert reused(cache, [*CHAT, 1]) == 40
    cache.close()


def test_a_prompt_larger_than_memory_is_left_on_the_disk(saved: Path):
    cache = open_cache(saved, budget=1024)
    assert reused(cache, [*CHAT, 1]) == 0
    assert (cache.nbytes, len(files(saved))) == (0, 6)
    cache.close()
    larger = open_cache(saved, budget=7_500)
    assert reused(larger, [*CHAT, 1]) == 20, "the part that fits"
    larger.close()


def test_tenants_and_models_share_nothing(saved: Path):
    cache = open_cache(saved)
    assert reused(cache, [*CHAT, 1], "other") == 0
    assert insert(cache, CHAT[:20], "other")
    cache.close()
    again = open_cache(saved)
    assert reused(again, [*CHAT, 1], "other") == 20
    assert reused(again, [*CHAT, 1]) == 40
    again.close()
    strange = PromptCache(1 << 30, DiskTier.open(saved, "another model", 1 << 30))
    assert reused(strange, [*CHAT, 1]) == 0
    strange.close()
    assert len(files(saved)) == 8, "what another model left is not touched while there is room"


def test_nothing_about_tenants_can_be_read_and_nobody_else_may_look(folder: Path):
    cache = open_cache(folder)
    insert(cache, CHAT, "secret-key")
    cache.close()
    for path in folder.rglob("*"):
        assert "secret" not in str(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700
        elif path.suffix == ".safetensors":
            assert mode == 0o600
            assert b"secret-key" not in path.read_bytes()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_are_safetensors(saved: Path):
    for file in files(saved):
        with safe_open(file, framework="numpy") as opened:
            assert opened.metadata()["format"] == cache_file.FORMAT
            names = set(opened.keys())
        kind = {"keys.0", "keys.1", "values.0", "values.1", "tokens"}
        assert names in (kind, {"conv_tails.0", "conv_tails.1", "recurrent.0", "recurrent.1"})


def damaged_in_turn(saved: Path, damages: list[tuple[Path, bytes]]) -> None:
    """Each damage alone: the cache never gives a wrong state (`reused` compares), and removes the
    file; what does not need it is still there."""
    originals = {file: file.read_bytes() for file in files(saved)}
    for file, data in damages:
        for other, whole in originals.items():
            other.write_bytes(data if other == file else whole)
            os.utime(other, (1e9, 1e9))  # what is a moment old may wait for what it stands on
        cache = open_cache(saved)
        length = reused(cache, [*CHAT, 1])
        assert length in (0, 10, 20, 40)
        cache.check()
        cache.close(0)
        if length < 40:
            assert not file.exists(), "removed"
        else:
            # An inner state is not read when the prompt goes on to a later one.
            assert file.name.endswith(".state.safetensors")
            other = open_cache(saved)
            assert reused(other, [*CHAT[:20], 1]) in (0, 10, 20)
            other.close(0)


def test_a_truncated_file_is_removed(saved: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR, "server.engine.disk_tier")
    damages: list[tuple[Path, bytes]] = []
    for file in files(saved):
        data = file.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        cuts = {0, 1, 7, 8, 9, 30, 40, header - 1, header, header + 1, len(data) - 1}
        damages += [(file, data[:cut]) for cut in sorted(cuts)]
        damages.append((file, data + b"x"))
    damaged_in_turn(saved, damages)


def test_a_flipped_bit_is_seen(saved: Path):
    damages: list[tuple[Path, bytes]] = []
    for number, file in enumerate(files(saved)):
        data = file.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        places = [*range(number % 7, header, 53), *range(header, len(data), len(data) // 5)]
        for place in places:
            flipped = bytearray(data)
            flipped[place] ^= 1 << (place % 8)
            damages.append((file, bytes(flipped)))
    damaged_in_turn(saved, damages)


def test_one_file_in_place_of_another_is_not_used(saved: Path):
    """Whole files of ours, checksum and all, under the names of others."""
    everything = files(saved)
    damages = [
        (file, other.read_bytes()) for file in everything for other in everything if file != other
    ]
    damaged_in_turn(saved, damages)


def test_a_file_of_another_model_is_removed(saved: Path):
    other = open_cache(saved.parent / "other")
    insert(other, [1, 2, 3])
    other.close()
    stranger = PromptCache(1 << 30, DiskTier.open(saved.parent / "other", "strange", 1 << 30))
    insert(stranger, CHAT)
    stranger.close()
    inside = subfolder(saved, MODEL)
    moved = [file.rename(inside / file.name) for file in files(saved.parent / "other")]
    cache = open_cache(saved)
    assert sorted(file.exists() for file in moved) == [False, False, True, True]
    assert reused(cache, [1, 2, 3, 4]) == 3, "our model's own are as good from elsewhere"
    assert reused(cache, [*CHAT, 1]) == 40
    cache.close()


def test_what_a_damaged_span_carried_goes_with_it(saved: Path, caplog: pytest.LogCaptureFixture):
    first = next(f for f in files(saved) if b'"start":"0","end":"10"' in f.read_bytes())
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    cache = open_cache(saved)
    assert reused(cache, [*CHAT, 1]) == 0
    assert "damaged and removed" in caplog.text
    assert files(saved) == []
    insert(cache, CHAT)
    cache.close()
    assert reused(open_cache(saved), [*CHAT, 1]) == 40


def test_what_stands_on_nothing_is_removed_unless_it_is_young(saved: Path):
    first = next(f for f in files(saved) if b'"start":"0","end":"10"' in f.read_bytes())
    first.unlink()
    open_cache(saved).close()
    assert len(files(saved)) == 5, "another process may be about to write what is missing"
    for file in files(saved):
        os.utime(file, (1e9, 1e9))
    open_cache(saved).close()
    assert files(saved) == []


def test_foreign_files_are_left_alone(saved: Path):
    inside = subfolder(saved, MODEL)
    foreign = [
        inside / "notes.txt",
        inside / "model.safetensors",
        saved / "x",
        inside / ".hidden.tmp",
    ]
    for path in foreign:
        path.write_text("not ours")
    cache = open_cache(saved, limit=4096)
    insert(cache, CHAT)
    cache.close()
    assert all(path.read_text() == "not ours" for path in foreign)


def test_the_cap_is_kept_and_the_oldest_goes(folder: Path):
    limit = 40 * 4096
    for number in range(30):
        chat = [number, *CHAT]
        cache = open_cache(folder, limit=limit)
        insert(cache, chat[:20])
        insert(cache, chat)
        cache.close()
        assert sum(on_disk(file.stat().st_size) for file in files(folder)) <= limit
        for file in files(folder):  # as if each was an hour ago
            times = file.stat().st_mtime - 3600
            os.utime(file, (times, times))
    cache = open_cache(folder, limit=limit)
    lengths = [reused(cache, [number, *CHAT, 1]) for number in range(30)]
    assert lengths[-8:] == [41] * 8
    assert lengths[:20] == [0] * 20
    cache.close()


def test_a_use_makes_young_again_also_for_the_next_process(folder: Path):
    now = time.time()
    for number in range(3):
        cache = PromptCache(1 << 30, DiskTier.open(folder, MODEL, 1 << 30, clock=lambda: now))
        insert(cache, [number, *CHAT])
        cache.close()
    for file in files(folder):
        os.utime(file, (now - 1e6, now - 1e6))
    cache = open_cache(folder)
    assert reused(cache, [1, *CHAT, 1]) == 41
    cache.close()
    small = open_cache(folder, limit=3 * 4096)
    assert [reused(small, [number, *CHAT, 1]) for number in range(3)] == [0, 41, 0]
    small.close()


def test_other_models_make_room_too(saved: Path):
    for file in files(saved):
        os.utime(file, (1, 1))
    cache = PromptCache(1 << 30, DiskTier.open(saved, "newer", 6 * 4096))
    insert(cache, CHAT)
    cache.close()
    assert sum(on_disk(file.stat().st_size) for file in files(saved)) <= 6 * 4096
    again = PromptCache(1 << 30, DiskTier.open(saved, "newer", 6 * 4096))
    assert reused(again, [*CHAT, 1]) == 40
    again.close()


def test_states_that_hardly_save_anything_are_not_written(folder: Path):
    """Of 300 states a token apart only those are written that save one in 128 tokens."""
    cache = open_cache(folder)
    tokens = list(range(420))
    for end in range(300, 420):
        start = cache.anchor(tokens[:end], end)
        kept = span([5] * (end - start), 0)
        cache.insert(tokens[:end], start, kept, snapshot([end] * end))
    cache.close()
    states = [file for file in files(folder) if ".state." in file.name]
    assert 420 // 4 // 4 < len(states) <= 120 // 3 + 1


def test_no_limit_is_off(folder: Path):
    cache = open_cache(folder, limit=0)
    insert(cache, CHAT)
    cache.close()
    assert not folder.exists()


def test_a_thousand_entries_are_indexed_at_once(folder: Path):
    cache = open_cache(folder)
    for number in range(4):
        insert(cache, [number, *CHAT[:5]])
    cache.close()
    inside = subfolder(folder, MODEL)
    spans = [file for file in files(folder) if ".span." in file.name]
    template = spans[0].read_bytes()
    own = spans[0].name.split(".")[0].encode()
    for number in range(1_000):
        name = f"{number:032x}"
        (inside / f"{name}.span.safetensors").write_bytes(template.replace(own, name.encode()))
    began = time.monotonic()
    tier = DiskTier.open(folder, MODEL, 1 << 30)
    assert time.monotonic() - began < 5
    assert tier.entries == 1_008
    tier.close(1)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "mxserve"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_folder() == tmp_path / ".cache" / "mxserve"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_folder() == tmp_path / "Library" / "Caches" / "mxserve"


tokens_of = st.lists(st.integers(0, 1), min_size=1, max_size=8)
tenants = st.sampled_from(["", "a"])


class Restarts(RuleBasedStateMachine):
    """Two processes' caches on one folder, in turns: whatever is inserted, evicted, saved and
    restarted, what comes back is right, and the caps hold."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name) / "cache"
        self.limit = 60 * 4096
        self.caches = [self.start(), self.start()]

    def start(self) -> PromptCache:
        return open_cache(self.folder, budget=16_000, limit=self.limit)

    @rule(who=st.integers(0, 1), tokens=tokens_of, tenant=tenants)
    def keep(self, who: int, tokens: list[int], tenant: str) -> None:
        assert insert(self.caches[who], tokens, tenant)
        assert reused(self.caches[who], [*tokens, 7], tenant) == len(tokens)

    @rule(who=st.integers(0, 1), tokens=tokens_of, tenant=tenants)
    def reuse(self, who: int, tokens: list[int], tenant: str) -> None:
        assert reused(self.caches[who], tokens, tenant) < len(tokens)

    @rule(who=st.integers(0, 1), pieces=st.integers(1, 20))
    def idle(self, who: int, pieces: int) -> None:
        for _ in range(pieces):
            self.caches[who].idle_work()

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        self.caches[who].close()
        self.caches[who] = self.start()

    @rule(who=st.integers(0, 1))
    def shed(self, who: int) -> None:
        self.caches[who].shed(8_000)

    @invariant()
    def accounts_agree(self) -> None:
        for cache in self.caches:
            cache.check()

    def teardown(self) -> None:
        for cache in self.caches:
            cache.close()
        held = sum(on_disk(file.stat().st_size) for file in files(self.folder))
        # Each of two that write at the same time may be one file ahead of what the other knows.
        assert held <= self.limit + 2 * 4096
        self.temporary.cleanup()


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
