"""A checkpoint written from weights in the original layout computes what those weights compute."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import pytest

from model.demo.chat_template import CHECKPOINT
from model.demo.checkpoint import HEAD, name_head, write_checkpoint
from model.demo.config import Config
from model.demo.tokenizer import load_tokenizer
from model.loading import load_model
from model.random_checkpoint import write_random_checkpoint

TOKENS = list(range(300, 360))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the demo's size in the original layout."""
    folder = tmp_path_factory.mktemp("original")
    geometry = json.loads((CHECKPOINT / "config.json").read_text())["text_config"]
    write_random_checkpoint(folder, geometry=geometry, format="original")
    return folder


@pytest.fixture(scope="module")
def weights(original: Path) -> dict[str, mx.array]:
    (file,) = original.glob("*.safetensors")
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)
    return {
        name.replace("model.language_model.", "model."): array.astype(mx.float32)
        for name, array in loaded.items()
    }


def test_plain_bf16_is_the_same_network(
    original: Path, weights: dict[str, mx.array], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, weights, Config(), load_tokenizer(CHECKPOINT), quantized=False)
    assert "quantization" not in json.loads((tmp_path / "config.json").read_text())
    stored = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(stored, dict)
    assert {array.dtype for array in stored.values()} == {mx.bfloat16}
    assert all(name.startswith("language_model.") for name in stored)
    written, expected = load_model(tmp_path), load_model(original)
    difference = written.logits(TOKENS) - expected.logits(TOKENS)
    assert float(mx.abs(difference).max()) == 0.0


def test_the_quantized_one_is_close_and_smaller(
    original: Path, weights: dict[str, mx.array], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, weights, Config(), load_tokenizer(CHECKPOINT))
    expected = load_model(original).logits(TOKENS)
    difference = load_model(tmp_path).logits(TOKENS) - expected
    relative = float(mx.sqrt(mx.square(difference).mean() / mx.square(expected).mean()))
    assert 0.0 < relative < 0.1
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size < 0.6 * sum(file.stat().st_size for file in original.glob("*.safetensors"))


def test_the_folder_is_the_committed_one_but_for_its_weights(
    weights: dict[str, mx.array], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, weights, Config(), load_tokenizer(CHECKPOINT))
    shutil.copy(CHECKPOINT / HEAD, tmp_path / HEAD)
    name_head(tmp_path)
    for file in CHECKPOINT.iterdir():
        written = tmp_path / file.name
        if file.suffix == ".json":  # the order of the tensors is free
            assert json.loads(written.read_text()) == json.loads(file.read_text()), file.name
        elif file.suffix != ".safetensors":
            assert written.read_bytes() == file.read_bytes(), file.name
