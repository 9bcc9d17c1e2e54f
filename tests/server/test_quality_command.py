"""`mxserve quality`: table, JSON and plot, and what it says of bad arguments."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from model.random_checkpoint import write_random_checkpoint
from server.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    for format in ("mlx-bf16", "mlx-ud-mxfp8", "mlx-affine8"):
        write_random_checkpoint(folder / format, layers=2, format=format)
    (folder / "text.txt").write_text("What is the capital of France? Paris. " * 10)
    return folder


def run(folder: Path, *flags: str) -> int:
    text = ["--text", str(folder / "text.txt"), "--tokens", "60", "--window", "30"]
    return main(["quality", str(folder / "mlx-bf16"), *flags, *text])


def test_json_has_the_figures_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = folder / "plot.svg"
    others = [str(folder / "mlx-ud-mxfp8"), f"eight={folder / 'mlx-affine8'}"]
    assert run(folder, *others, "--json", "--plot", str(plot)) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["mlx-ud-mxfp8", "eight"]
    for figures in found.values():
        assert 0 < figures["kl_p50"] <= figures["kl_p99"] <= figures["kl_max"]
        assert 0 < figures["kl_mean"] < figures["kl_max"]
        assert 0.5 < figures["top1"] <= 1
        assert figures["perplexity"] > 1
        assert figures["worst_tensors"][0]["output_error"] > 0
        assert len(figures["router_agreement_by_layer"]) == 2
    assert found["eight"]["kl_mean"] < found["mlx-ud-mxfp8"]["kl_mean"]
    drawn = ET.fromstring(plot.read_text())
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"eight", "mlx-ud-mxfp8", "KL divergence from the reference"} <= texts


def test_the_table_has_a_line_for_each(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, str(folder / "mlx-ud-mxfp8")) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("60 tokens in 2 windows\nreference: mlx-bf16, perplexity ")
    lines = printed.splitlines()
    head = next(line for line in lines if line.startswith("checkpoint"))
    row = next(line for line in lines if line.startswith("mlx-ud-mxfp8 "))
    assert len(row) == len(head)
    assert "top-4 of the routers kept, by layer:" in lines
    assert any("mxfp8  model.layers." in line for line in lines)


def test_ctrl_c_is_no_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object, **flags: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.quality.compare.compare", stopped)
    assert run(folder, str(folder / "mlx-ud-mxfp8")) == 130
    assert capsys.readouterr().err == "\nmxserve quality: stopped\n"


def test_bad_arguments_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, str(folder / "mlx-ud-mxfp8"), f"mlx-ud-mxfp8={folder / 'mlx-affine8'}") == 1
    assert "two checkpoints are named mlx-ud-mxfp8" in capsys.readouterr().err
    assert run(folder, f"x={folder / 'nothing'}") == 1
    assert "no such folder" in capsys.readouterr().err
    assert run(folder, str(folder / "mlx-affine8"), "--text", str(folder / "none.txt")) == 1
    assert "none.txt: No such file" in capsys.readouterr().err
