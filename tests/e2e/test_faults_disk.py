"""A disk tier that is damaged, gone or in the way costs warm starts, never an answer."""

import pytest

from tests.e2e.conftest import COUNT, FRANCE, wait_for


def kept(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".txt"]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def stopped(server):
    assert server.server.stop() == 0
    return server.server.output


@pytest.fixture
def filled(start_faulty, tmp_path):
    """A folder in which a server has left what it knew, and the flags that name it."""
    flags = ("--disk-cache", str(tmp_path))
    server = start_faulty(*flags)
    server.ask(COUNT)
    stopped(server)
    assert kept(tmp_path)
    return tmp_path, flags


def test_files_as_they_were_left_are_used(start_faulty, filled):
    answer = start_faulty(*filled[1]).ask(COUNT)
    assert cached(answer) > 0


@pytest.mark.parametrize("damage", ["truncated", "emptied", "altered"])
def test_damaged_files_are_skipped_and_removed(start_faulty, filled, damage):
    folder, flags = filled
    damaged = {}
    for path in kept(folder):
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            content = content[: len(content) // 2]
        elif damage == "emptied":
            content = bytearray()
        else:
            content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        damaged[path] = bytes(content)
    server = start_faulty(*flags)
    answer = server.ask(COUNT)
    assert cached(answer) == 0
    assert answer["choices"][0]["message"]["content"].strip().endswith("20")
    assert "WARNING" in stopped(server)
    left = [path for path in damaged if path.exists() and path.read_bytes() == damaged[path]]
    assert len(left) < len(damaged)


def test_files_that_vanish_while_it_serves(start_faulty, filled):
    folder, flags = filled
    server = start_faulty(*flags)
    for path in kept(folder):
        path.unlink()
    assert server.serves()
    assert server.ask(COUNT)["choices"][0]["message"]["content"]
    stopped(server)


def test_a_folder_that_cannot_be(start_faulty, tmp_path):
    (tmp_path / "file").write_text("in the way")
    server = start_faulty("--disk-cache", str(tmp_path / "file" / "cache"))
    assert server.serves()
    assert cached(server.ask(FRANCE)) > 0  # memory does without it
    assert "WARNING" in stopped(server)


def test_the_cap_holds(start_faulty, tmp_path):
    cap = 1_000_000
    server = start_faulty("--disk-cache", str(tmp_path), "--disk-cache-bytes", str(cap))
    for number in range(8):
        server.ask(f"{COUNT} ({number})")
    wait_for(lambda: server.health()["disk_cache_bytes"] > 0)
    stopped(server)
    assert sum(path.stat().st_size for path in kept(tmp_path)) <= cap


def test_a_full_disk_ends_writing_and_nothing_else(start_faulty, tmp_path):
    server = start_faulty("--disk-cache", str(tmp_path))
    server.arm("full-disk")
    server.ask(COUNT)
    wait_for(lambda: "No space left" in server.server.output)
    assert server.serves()
    assert cached(server.ask(COUNT)) > 0
    assert server.health()["status"] == "ok"
    assert server.health()["disk_cache_bytes"] == 0
    assert not list(tmp_path.rglob("*.safetensors"))
    assert "no longer written to" in stopped(server)
