"""`mxserve convert` as a command: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.random_checkpoint import write_random_checkpoint
from server.cli import main


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    write_random_checkpoint(folder, layers=4, format="original", with_mtp=True)
    return folder


def test_converts_and_says_so_once(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", str(original), str(tmp_path / "made"), "--recipe", "mxfp8"]
    assert main(command) == 0
    assert "made: " in capsys.readouterr().err
    before = (tmp_path / "made" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert "holds this conversion already" in capsys.readouterr().err
    assert (tmp_path / "made" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*command[:4], "mxfp4"]) == 1
    assert "found other files" in capsys.readouterr().err


def test_a_plan_writes_nothing(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(original), "--plan", "--recipe", "ud-mxfp8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    experts = next(line for line in lines if "switch_mlp.up_proj" in line)
    assert experts.split()[1:4] == ["mxfp8", "16x64x128", "4"]
    assert experts.split()[4] == "8.25"
    assert any(line.startswith("mtp.*") and "bf16" in line for line in lines)
    assert main(["convert", str(original), "--plan", "--json", "--drop", "mtp"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["recipe"] == "ud-mxfp8"
    assert plan["dropped"] == ["mtp"]
    assert plan["bytes_per_token"]["weights"] == sum(plan["bytes_per_token"]["by_part"].values())
    assert sum(row["nbytes"] for row in plan["tensors"]) < plan["bytes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["SRC"], "expected DST"),
        (["no/such/folder", "x"], "no such folder"),
        (["SRC", "x", "--imatrix", "no.gguf"], "no.gguf"),
        (["SRC", "SRC/inside"], "apart from the source"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    original: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [argument.replace("SRC", str(original)) for argument in arguments]
    assert main(["convert", *given]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mxserve convert: ")
    assert said in error
    assert "Traceback" not in error


def test_parts_and_recipes_that_are_none(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--drop", "head"], ["--recipe", "int3"]):
        with pytest.raises(SystemExit) as raised:
            main(["convert", str(original), "x", *wrong])
        assert raised.value.code == 2
    assert "expected vision or mtp, found head" in capsys.readouterr().err
