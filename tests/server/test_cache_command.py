"""`mxserve cache`: what it lists, what it removes and what it leaves."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from server.cache_command import contents, main
from server.engine.disk_tier import DiskTier
from server.engine.prompt_cache import PromptCache
from tests.server.engine.disk_states import insert, reused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two models: one with two states, one with one, used an hour ago."""
    folder = tmp_path / "cache"
    for model, chats in (("alpha", [[1, 2, 3], [4, 5]]), ("beta", [[1, 2, 3]])):
        cache = PromptCache(1 << 20, DiskTier.open(folder, model, 1 << 30, label=f"the {model}"))
        for chat in chats:
            insert(cache, chat)
        cache.close()
    hour_ago = time.time() - 3700
    (beta,) = [part for part in folder.iterdir() if "beta" in (part / "model.txt").read_text()]
    for file in beta.glob("*.safetensors"):
        os.utime(file, (hour_ago, hour_ago))
    return folder


def test_ls_is_a_table(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ls", "--folder", str(folder)]) == 0
    where, head, first, second = capsys.readouterr().out.splitlines()
    assert where == str(folder)
    assert head.split() == ["MODEL", "FOLDER", "ENTRIES", "SIZE", "LAST", "USED"]
    assert first.split()[:2] == ["the", "alpha"]
    assert first.split()[3:] == ["4", "16.0", "KiB", "just", "now"]
    assert second.split()[:2] == ["the", "beta"]
    assert second.split()[3:] == ["2", "8.0", "KiB", "1", "hour", "ago"]


def test_ls_as_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["ls", "--json", "--folder", str(folder)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["folder"] == str(folder)
    alpha, beta = listed["models"]
    assert (alpha["model"], alpha["entries"], alpha["bytes"]) == ("the alpha", 4, 16384)
    assert (beta["model"], beta["entries"], beta["bytes"]) == ("the beta", 2, 8192)
    assert 0 <= time.time() - alpha["newest"] < 60
    assert (folder / alpha["folder"]).is_dir()


@pytest.mark.parametrize("arguments", [["ls"], ["clear", "--yes"]])
def test_where_nothing_is(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main([*arguments, "--folder", str(tmp_path / "none")]) == 0
    assert "nothing is kept there" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_clear_removes_ours_and_leaves_the_rest(folder: Path, capsys: pytest.CaptureFixture[str]):
    alpha = folder / contents(folder)[0].folder
    (alpha / "notes.txt").write_text("mine")
    (folder / "other").mkdir()
    assert main(["clear", "--yes", "--folder", str(folder)]) == 0
    assert "Removed 6 entries" in capsys.readouterr().out
    assert [path.name for path in alpha.iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([alpha.name, "other"])
    again = PromptCache(1 << 20, DiskTier.open(folder, "alpha", 1 << 30))
    assert reused(again, [1, 2, 3, 4]) == 0
    again.close()


def test_clear_asks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Terminal:
        def isatty(self) -> bool:
            return True

    assert main(["clear", "--folder", str(folder)]) == 1, "nobody there to ask"
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Terminal())
    for answer, status, left in (("", 1, 6), ("n", 1, 6), ("y", 0, 0)):
        asked: list[str] = []
        monkeypatch.setattr("builtins.input", lambda q, a=answer, asked=asked: asked.append(q) or a)
        assert main(["clear", "--folder", str(folder)]) == status
        assert asked == [f"Remove 6 entries, 24.0 KiB, from {folder}? [y/N] "]
        assert sum(part.entries for part in contents(folder)) == left


def test_the_folder_of_the_server_is_the_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MXSERVE_DISK_CACHE", str(folder))
    assert main(["ls"]) == 0
    assert "the alpha" in capsys.readouterr().out
    monkeypatch.setenv("MXSERVE_DISK_CACHE", "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent))
    monkeypatch.setattr("sys.platform", "linux")
    assert main(["ls"]) == 0
    assert capsys.readouterr().out.startswith(str(folder.parent / "mxserve"))


def test_a_running_server_survives_a_clear(folder: Path):
    disk = DiskTier.open(folder, "alpha", 1 << 30)
    cache = PromptCache(1 << 20, disk)
    assert main(["clear", "--yes", "--folder", str(folder)]) == 0
    assert reused(cache, [1, 2, 3, 4]) == 0
    insert(cache, [1, 2, 3])
    cache.close()
    assert contents(folder)[0].entries == 2
