"""Damaged and unfitting checkpoints: one error that says what, before anything is read."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoint import load_weights
from model.config import read_config
from model.errors import CheckpointError
from model.random_checkpoint import write_random_checkpoint

SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
LAYER = "language_model.model.layers.0"


def error_of(folder: Path) -> str:
    """The message of the error, which comes before any progress and costs little (in time of this
    process, so that a busy machine does not count)."""
    calls: list[int] = []
    start = time.process_time()
    with pytest.raises(CheckpointError) as raised:
        load_weights(
            folder,
            read_config(folder),
            compute_dtype=mx.float32,
            dequantize=True,
            progress=lambda done, total: calls.append(done),
        )
    assert time.process_time() - start < 5
    assert not calls
    return str(raised.value)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    write_random_checkpoint(tmp_path, layers=2, shards=3)
    return tmp_path


def _rewrite_header(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _trailing_junk(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"junk")


def _header_no_json(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:8] + b"?" + data[9:])


def _header_length_huge(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:])


def _header_length_zero(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 0) + file.read_bytes()[8:])


def _cut_in_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def _offsets_overlap(file: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        first, second = (name for name in list(header)[:3] if name != "__metadata__")
        header[second]["data_offsets"] = header[first]["data_offsets"]

    _rewrite_header(file, change)


def _shape_beyond_offsets(file: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header[name]["shape"] = [1 << 40, 1 << 40]

    _rewrite_header(file, change)


def _unknown_dtype(file: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        name = next(name for name in header if name != "__metadata__")
        header[name]["dtype"] = "Q7"

    _rewrite_header(file, change)


def _a_pickle(file: Path) -> None:
    file.write_bytes(b"\x80\x04\x95" + bytes(1000))


DAMAGE = [
    _truncate,
    _empty,
    _trailing_junk,
    _header_no_json,
    _header_length_huge,
    _header_length_zero,
    _cut_in_header,
    _offsets_overlap,
    _shape_beyond_offsets,
    _unknown_dtype,
    _a_pickle,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_file_is_named(sharded: Path, damage: Callable[[Path], None]) -> None:
    damage(sharded / SHARD)
    message = error_of(sharded)
    assert str(sharded) in message
    assert f"{SHARD}: expected a whole safetensors file" in message


@given(st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_cut_goes_unnoticed(sharded: Path, data: st.DataObject) -> None:
    file = sharded / SHARD
    whole = file.read_bytes()
    length = data.draw(st.integers(0, len(whole) - 1))
    try:
        file.write_bytes(whole[:length])
        assert f"{SHARD}: expected a whole safetensors file, found {length:,} bytes" in error_of(
            sharded
        )
    finally:
        file.write_bytes(whole)


def test_a_shard_is_missing(sharded: Path) -> None:
    (sharded / SHARD).unlink()
    assert f"{SHARD}: expected by {INDEX}, not found" in error_of(sharded)


def test_no_weights_at_all(sharded: Path) -> None:
    for file in sharded.glob("model*"):
        file.unlink()
    assert f"expected model.safetensors or {INDEX}, found neither" in error_of(sharded)


def test_the_index_names_a_place_outside_the_folder(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../elsewhere.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    message = error_of(sharded)
    assert f"weight_map.{name}" in message
    assert "../elsewhere.safetensors" in message


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": {"a": 3}}, []])
def test_an_index_without_sense(sharded: Path, index: Any) -> None:
    (sharded / INDEX).write_text(json.dumps(index))
    assert INDEX in error_of(sharded)


def test_the_index_places_a_tensor_elsewhere(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = next(n for n, file in index["weight_map"].items() if file == SHARD)
    index["weight_map"][name] = "model-00001-of-00003.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    assert f"{name}: expected here by {INDEX}, found in {SHARD}" in error_of(sharded)


def test_a_tensor_is_in_two_files(sharded: Path) -> None:
    first = mx.load(str(sharded / "model-00001-of-00003.safetensors"))
    second = mx.load(str(sharded / SHARD))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    name = next(iter(first))
    arrays = second | {name: first[name]}
    mx.eval(arrays)
    mx.save_safetensors(str(sharded / SHARD), arrays)
    assert f"{SHARD}: {name}: expected once, also in model-00001" in error_of(sharded)


def edited(folder: Path, change: Callable[[dict[str, mx.array]], Any], format: str) -> str:
    """The error of a one-file checkpoint whose tensors have been changed."""
    write_random_checkpoint(folder, layers=2, format=format)
    file = folder / "model.safetensors"
    arrays = mx.load(str(file))
    assert isinstance(arrays, dict)
    change(arrays)
    mx.eval(arrays)
    mx.save_safetensors(str(file), arrays)
    (folder / INDEX).unlink()
    return error_of(folder)


def test_a_tensor_is_missing(tmp_path: Path) -> None:
    name = f"{LAYER}.linear_attn.A_log"
    message = edited(tmp_path, lambda arrays: arrays.pop(name), "mlx-bf16")
    assert f"{name}: expected a tensor [4], found nothing" in message


def test_scales_or_biases_are_missing(tmp_path: Path) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        del arrays[f"{LAYER}.linear_attn.in_proj_z.scales"]
        del arrays[f"{LAYER}.mlp.gate.biases"]

    message = edited(tmp_path, change, "mlx-ud-mxfp8")
    assert "in_proj_z.scales: expected the scales of a mxfp8 8-bit g32 matrix" in message
    assert "mlp.gate.biases: expected the biases of a affine 8-bit g64 matrix" in message


def test_an_unexpected_tensor(tmp_path: Path) -> None:
    name = f"{LAYER}.mlp.router_bias"
    message = edited(tmp_path, lambda arrays: arrays.update({name: mx.zeros((3, 2))}), "mlx-bf16")
    assert f"model.safetensors: {name}: expected no such tensor, found F32 [3, 2]" in message


def test_two_shapes_are_swapped(tmp_path: Path) -> None:
    up = f"{LAYER}.mlp.shared_expert.up_proj.weight"
    down = f"{LAYER}.mlp.shared_expert.down_proj.weight"

    def change(arrays: dict[str, mx.array]) -> None:
        arrays[up], arrays[down] = arrays[down], arrays[up]

    message = edited(tmp_path, change, "mlx-bf16")
    expected = "expected BF16 or F16 or F32"
    assert f"model.safetensors: {up}: {expected} [64, 128], found BF16 [128, 64]" in message
    assert f"model.safetensors: {down}: {expected} [128, 64], found BF16 [64, 128]" in message


def test_a_wrong_dtype(tmp_path: Path) -> None:
    norm, gate = f"{LAYER}.input_layernorm.weight", f"{LAYER}.mlp.gate.weight"

    def change(arrays: dict[str, mx.array]) -> None:
        arrays[norm] = arrays[norm].astype(mx.int32)
        arrays[gate] = arrays[gate].astype(mx.int32)

    message = edited(tmp_path, change, "mlx-ud-mxfp8")
    assert f"{norm}: expected BF16 or F16 or F32 [128], found I32 [128]" in message
    assert f"{gate}: expected U32 [16, 32] (affine 8-bit g64), found I32 [16, 32]" in message


def test_a_quantized_matrix_of_another_size(tmp_path: Path) -> None:
    name = f"{LAYER}.linear_attn.in_proj_qkv.weight"

    def change(arrays: dict[str, mx.array]) -> None:
        arrays[name] = arrays[name][:, :-3]

    message = edited(tmp_path, change, "mlx-ud-mxfp8")
    assert f"{name}: expected U32 [256, 32] (mxfp8 8-bit g32), found U32 [256, 29]" in message


def test_scales_of_no_known_format(tmp_path: Path) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        name = f"{LAYER}.linear_attn.out_proj"
        arrays[f"{name}.weight"] = mx.zeros((128, 32), mx.uint32)
        arrays[f"{name}.scales"] = mx.zeros((128, 3), mx.uint8)

    message = edited(tmp_path, change, "mlx-bf16")
    assert "expected a quantized matrix [128, 128] in a known format" in message
    assert "with scales U8 [128, 3]" in message


def test_scales_where_the_map_says_unquantized(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=2)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["quantization"]["language_model.lm_head"] = False
    file.write_text(json.dumps(config))
    message = error_of(tmp_path)
    assert "language_model.lm_head.weight: expected BF16 or F16 or F32 [2048, 128]" in message
    assert "language_model.lm_head.scales: expected no such tensor" in message


def test_an_original_tensor_is_missing_or_misshapen(tmp_path: Path) -> None:
    prefix = "model.language_model.layers"

    def change(arrays: dict[str, mx.array]) -> None:
        del arrays[f"{prefix}.0.mlp.experts.gate_up_proj"]
        name = f"{prefix}.1.mlp.experts.gate_up_proj"
        arrays[name] = arrays[name][:, :-2]
        name = f"{prefix}.1.linear_attn.conv1d.weight"
        arrays[name] = arrays[name].swapaxes(1, 2)

    message = edited(tmp_path, change, "original")
    assert f"{prefix}.0.mlp.experts.gate_up_proj: expected" in message
    assert (
        f"{prefix}.1.mlp.experts.gate_up_proj: expected BF16 or F16 or F32 [16, 128, 128]"
        in message
    )
    assert "found BF16 [16, 126, 128]" in message
    assert f"{prefix}.1.linear_attn.conv1d.weight: expected" in message


def test_one_tensor_under_two_names(tmp_path: Path) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        arrays["model.norm.weight"] = mx.ones((128,))

    message = edited(tmp_path, change, "mlx-bf16")
    assert "expected once, also stored as" in message


def test_a_config_of_another_size_lists_a_few_and_counts_the_rest(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=2)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"hidden_size": 128', '"hidden_size": 256'))
    lines = error_of(tmp_path).splitlines()
    assert len(lines) == 10
    assert lines[-1].strip().startswith("... and ")
