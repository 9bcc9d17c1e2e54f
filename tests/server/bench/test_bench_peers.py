"""How the servers that mxserve is compared with are installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.bench import peers
from server.bench.client import BenchError
from server.bench.peers import CPU_INDEX, PEERS
from server.bench.servers import DEMO


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What pip was asked to install; nothing is."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "pip" in command:
            asked.append(command[command.index("-q") + 1 :])
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(peers.subprocess, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "touch", lambda _: None)
    return asked


def index_that(answers: bool) -> Any:
    def head(url: str, **_: Any) -> httpx.Response:
        if not answers:
            raise httpx.ConnectError("no route")
        return httpx.Response(200, request=httpx.Request("HEAD", url))

    return head


@pytest.mark.parametrize("answers", [True, False])
def test_torch_is_the_build_for_cpus_and_stays(
    pip: list[list[str]], monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(peers.httpx, "head", index_that(answers))
    peers.interpreter(PEERS["vllm-mlx"])
    torch = ["torch==2.13.0", "torchvision==0.28.0"]
    index = ["--extra-index-url", CPU_INDEX] if answers else []
    assert pip == [[*torch, *index], ["vllm-mlx==0.6.0", "mlx[cpu]", *torch, *index]]


def test_mlx_lm_needs_no_torch(pip: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    peers.interpreter(PEERS["mlx-lm"])
    assert pip == [["mlx-lm==0.32.2", "mlx[cpu]"]]


def test_on_a_mac_the_package_brings_all_it_needs(
    pip: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    peers.interpreter(PEERS["vllm-mlx"])
    assert pip == [["vllm-mlx==0.6.0"]]


def test_a_peer_that_would_look_for_images_gets_a_checkpoint_without_any(tmp_path: Path) -> None:
    view = peers.text_view(DEMO, tmp_path / "view")
    assert {file.name for file in view.iterdir()} == {file.name for file in DEMO.iterdir()}
    config = json.loads((view / "config.json").read_text())
    assert not [key for key in config if key.startswith(("image", "video", "vision"))]
    assert "architectures" not in config
    whole = json.loads((DEMO / "config.json").read_text())
    assert config["text_config"] == whole["text_config"]
    assert (view / "model.safetensors").samefile(DEMO / "model.safetensors")


@pytest.mark.parametrize(("name", "own"), [("vllm-mlx", False), ("mlx-lm", True)])
def test_the_checkpoint_that_a_peer_is_started_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, own: bool
) -> None:
    monkeypatch.setattr(peers, "interpreter", lambda _: Path("python"))
    process = peers.contender(name, None, scratch=tmp_path)
    assert (str(DEMO) in process.command) == own
    assert (str(tmp_path / "checkpoint") in process.command) != own


def test_an_installation_that_fails_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, returncode=1, stderr="no such version")

    monkeypatch.setattr(peers.subprocess, "run", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BenchError, match="no such version"):
        peers.interpreter(PEERS["mlx-lm"])
