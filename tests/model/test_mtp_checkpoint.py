"""The MTP head's tensors: from every layout, from a side file, and refused in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from model.config import read_config
from model.errors import CheckpointError
from model.loading import DEMO_FOLDER, load_model
from model.mtp_checkpoint import extract_mtp, load_mtp, plan_mtp
from model.random_checkpoint import write_random_checkpoint
from server.extract_mtp_command import main


def made(folder: Path, **options: Any) -> Path:
    write_random_checkpoint(folder, layers=4, with_mtp=True, **options)
    return folder


def arrays(folder: Path, side: Path | None = None) -> dict[str, mx.array]:
    config = read_config(folder)
    plan = plan_mtp(folder, config, side)
    assert plan is not None
    return load_mtp(plan, config, compute_dtype=mx.float32, dequantize=True).arrays


def assert_equal(one: dict[str, mx.array], other: dict[str, mx.array]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert mx.array_equal(array, other[name]), name


def test_original_and_mlx_layout_hold_the_same_head(tmp_path: Path) -> None:
    original = arrays(made(tmp_path / "original", format="original"))
    assert_equal(original, arrays(made(tmp_path / "mlx", format="mlx-ud-mxfp8")))
    norms = [array for name, array in original.items() if "norm" in name]
    assert len(norms) == 7
    assert all(0.8 < float(norm.mean()) < 1.2 for norm in norms)


def test_a_side_file_holds_the_same_head(tmp_path: Path) -> None:
    original = made(tmp_path / "original", format="original", shards=3)
    trunk = tmp_path / "trunk"
    write_random_checkpoint(trunk, layers=4, format="mlx-ud-mxfp8")
    assert plan_mtp(trunk, read_config(trunk)) is None
    assert main([str(original), str(tmp_path / "mtp.safetensors")]) == 0
    wanted = arrays(original)
    assert_equal(wanted, arrays(trunk, tmp_path / "mtp.safetensors"))
    assert_equal(wanted, arrays(trunk, original))


def test_only_files_with_the_head_are_needed(tmp_path: Path) -> None:
    original = made(tmp_path / "original", format="original", shards=3)
    index = json.loads((original / "model.safetensors.index.json").read_text())
    holding = {file for name, file in index["weight_map"].items() if name.startswith("mtp.")}
    others = {*index["weight_map"].values()} - holding
    assert others
    for file in others:
        (original / file).unlink()
    assert extract_mtp(original, tmp_path / "head" / "mtp.safetensors") == 19


@pytest.mark.parametrize("kind", ["missing", "wrong shape", "unexpected", "none"])
def test_a_head_that_does_not_fit_is_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(tmp_path / "original", format="original")
    side = tmp_path / "mtp.safetensors"
    extract_mtp(folder, side)
    stored: Any = mx.load(str(side))
    if kind == "missing":
        del stored["mtp.layers.0.self_attn.k_proj.weight"]
        found = "mtp.layers.0.self_attn.k_proj.weight: expected a tensor [128, 128], found nothing"
    elif kind == "wrong shape":
        stored["mtp.fc.weight"] = stored["mtp.fc.weight"][:, :100]
        found = "mtp.fc.weight: expected BF16 or F16 or F32 [128, 256], found BF16 [128, 100]"
    elif kind == "unexpected":
        stored["mtp.layers.1.input_layernorm.weight"] = mx.zeros((128,))
        found = "mtp.layers.1.input_layernorm.weight: expected no such tensor"
    else:
        stored = {"fc.weight": stored["mtp.fc.weight"]}
        found = "expected mtp.* tensors, found none"
    mx.save_safetensors(str(side), stored)
    with pytest.raises(CheckpointError) as error:
        plan_mtp(folder, read_config(folder), side)
    assert found in str(error.value)
    if kind == "none":
        assert main([str(side), str(tmp_path / "out.safetensors")]) == 1
        assert found in capsys.readouterr().err


def test_nobody_asked_for_a_broken_head_of_the_checkpoint(tmp_path: Path) -> None:
    """The model serves without it, unless a depth was asked for."""
    folder = made(tmp_path / "broken", format="mlx-bf16")
    file = folder / "model.safetensors"
    stored: Any = mx.load(str(file))
    del stored["mtp.fc.weight"]
    mx.save_safetensors(str(file), stored)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["mtp.fc.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load_model(folder).steps.mtp is None
    with pytest.raises(CheckpointError, match=r"mtp\.fc\.weight: expected a tensor"):
        load_model(folder, mtp_depth=1)


def test_a_depth_without_a_head_is_refused(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "trunk", layers=4)
    with pytest.raises(CheckpointError, match="--mtp takes them from elsewhere"):
        load_model(tmp_path / "trunk", mtp_depth=2)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load_model(tmp_path / "trunk", mtp=tmp_path / "nowhere")


def test_the_demo_has_a_head_and_depth_0_leaves_it() -> None:
    assert load_model(DEMO_FOLDER, mtp_depth=1).steps.mtp is not None
    assert load_model(DEMO_FOLDER, mtp_depth=0).steps.mtp is None
