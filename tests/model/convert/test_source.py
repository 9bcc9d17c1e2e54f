"""The source: the network's names and values, out of the original layout, a few rows at a time."""

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from model.checkpoint import load_weights
from model.convert.source import open_source
from model.errors import CheckpointError
from model.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module", params=["original", "mlx-bf16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("source")
    write_random_checkpoint(
        made, layers=4, format=request.param, shards=3, with_vision=True, with_mtp=True
    )
    return made


def test_values_are_those_that_loading_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.checkpoint.joins", lambda config, spec_of: ())
    source = open_source(folder)
    loaded = load_weights(folder, source.config, compute_dtype=mx.float32, dequantize=True).arrays
    text = {name: tensor for name, tensor in source.tensors.items() if tensor.part == "text"}
    assert text.keys() == loaded.keys()
    for name, tensor in text.items():
        assert tensor.shape == loaded[name].shape
        assert np.array_equal(tensor.values(), np.array(loaded[name])), name
        assert mx.array_equal(source[name].astype(mx.float32), loaded[name]), name


def test_ranges_of_the_first_axis_are_parts_of_the_whole(folder: Path) -> None:
    for name, tensor in open_source(folder).tensors.items():
        whole, rows = tensor.bits(), tensor.shape[0]
        assert whole.shape == tensor.shape
        pieces = [tensor.bits(i, min(i + 3, rows)) for i in range(0, rows, 3)]
        assert np.array_equal(np.concatenate(pieces), whole), name


def test_vision_is_renamed_and_turned_mtp_is_left_alone(folder: Path) -> None:
    source = open_source(folder)
    mtp = [tensor for tensor in source.tensors.values() if tensor.part == "mtp"]
    assert len(mtp) == 19
    for tensor in mtp:
        assert tensor.name == tensor.stored.name
        assert (tensor.shape, tensor.change) == (tensor.stored.shape, "none")
    patches = source.tensors["vision_tower.patch_embed.proj.weight"]
    assert patches.shape == (32, 2, 16, 16, 3)
    loaded = mx.load(str(patches.stored.file))
    assert isinstance(loaded, dict)
    stored = loaded[patches.stored.name].astype(mx.float32)
    if patches.change == "channels last":
        stored = mx.moveaxis(stored, 1, -1)
    assert np.array_equal(patches.values(), np.array(stored))
    assert not source.dropped


def test_what_is_quantized_is_refused_by_name(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=1, format="mlx-mxfp8")
    with pytest.raises(CheckpointError, match=r"quantized already[\s\S]*embed_tokens.*mxfp8"):
        open_source(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=2, format="original", shards=2)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"num_hidden_layers": 3}
    config["text_config"]["layer_types"].append("linear_attention")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"layers\.2\.linear_attn\.A_log"):
        open_source(tmp_path)


def test_a_file_that_shrank_after_its_header_was_read_is_named(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=1, format="original")
    tensor = open_source(tmp_path).tensors["model.norm.weight"]
    os.truncate(tensor.stored.file, tensor.offset + 3)
    with pytest.raises(CheckpointError, match=r"norm\.weight: expected 256 bytes, found 3"):
        tensor.values()


def test_a_hub_id_is_the_folder_it_was_fetched_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_checkpoint(tmp_path, layers=1, format="original")
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def fetched(hub_id: str) -> Path:
        asked.append(hub_id)
        return tmp_path

    monkeypatch.setattr("model.convert.source.hub_snapshot", fetched)
    assert open_source("owner/name").folder == tmp_path
    assert asked == ["owner/name"]
