"""Loading: every format against the values it was made from, and memory."""

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from model.checkpoint import Weights, dequantize_fits, load_weights
from model.config import read_config
from model.device import DeviceInfo
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES
from model.storage_formats import FORMATS
from model.tensors import expected_tensors, parameter_count

LAYERS = 4
# Largest share of a matrix's norm that storing it may cost.
TOLERANCE = {
    "mlx-bf16": 0.0,
    "original": 0.0,
    "mlx-ud-mxfp8": 0.03,
    "mlx-ud-mxfp8-fast": 0.03,
    "mlx-mxfp8": 0.03,
    "mlx-affine8": 0.01,
    "mlx-affine4": 0.11,
    "mlx-mxfp4": 0.14,
    "mlx-nvfp4": 0.13,
}


def load(folder: Path, *, dequantize: bool = True, dtype: mx.Dtype = mx.float32) -> Weights:
    return load_weights(folder, read_config(folder), compute_dtype=dtype, dequantize=dequantize)


def made(tmp_path: Path, name: str, **options) -> Path:
    write_random_checkpoint(tmp_path / name, layers=LAYERS, format=name, **options)
    return tmp_path / name


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mx.array]:
    return load(made(tmp_path_factory.mktemp("reference"), "mlx-bf16")).arrays


def distance(a: mx.array, b: mx.array) -> float:
    return (mx.linalg.norm((a - b).flatten()) / mx.linalg.norm(b.flatten())).item()  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_format_holds_the_values_it_was_made_from(
    tmp_path: Path, reference: dict[str, mx.array], name: str, shards: int
) -> None:
    weights = load(made(tmp_path, name, shards=shards, with_vision=True, with_mtp=True))
    assert weights.arrays.keys() == reference.keys()
    assert not weights.quantized
    for tensor, array in weights.arrays.items():
        assert array.shape == reference[tensor].shape
        assert array.dtype == mx.float32
        assert distance(array, reference[tensor]) <= TOLERANCE[name], tensor


@pytest.mark.parametrize("name", FORMATS)
def test_quantized_parts_are_kept_and_mean_the_same(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, name)
    kept, plain = load(folder, dequantize=False), load(folder)
    assert bool(kept.quantized) == (FORMATS[name].default is not None)
    for module, spec in kept.quantized.items():
        weight, scales = (kept.arrays.pop(f"{module}.{part}") for part in ("weight", "scales"))
        biases = kept.arrays.pop(f"{module}.biases", None)
        assert (biases is not None) == (spec.mode == "affine")
        values = mx.dequantize(
            weight,
            scales,
            biases,
            group_size=spec.group_size,
            bits=spec.bits,
            mode=spec.mode,
            dtype=mx.float32,
        )
        assert mx.array_equal(values, plain.arrays.pop(f"{module}.weight"))
    assert kept.arrays.keys() == plain.arrays.keys()


def test_types_follow_the_compute_dtype(tmp_path: Path) -> None:
    weights = load(made(tmp_path, "mlx-affine8"), dequantize=False, dtype=mx.bfloat16)
    for name, array in weights.arrays.items():
        if name.endswith(("A_log", "dt_bias")):
            assert array.dtype == mx.float32
        elif name.endswith(".weight") and name.removesuffix(".weight") in weights.quantized:
            assert array.dtype == mx.uint32
        else:
            assert array.dtype == mx.bfloat16


def test_vision_and_mtp_are_set_aside_and_named(tmp_path: Path) -> None:
    mlx = load(made(tmp_path, "mlx-ud-mxfp8", with_vision=True, with_mtp=True))
    original = load(made(tmp_path, "original", with_vision=True, with_mtp=True))
    assert len(mlx.set_aside) == len(original.set_aside) == 52
    assert "vision_tower.patch_embed.proj.weight" in mlx.set_aside
    assert "model.visual.patch_embed.proj.weight" in original.set_aside
    assert "mtp.fc.weight" in original.set_aside
    assert not any("mtp" in name or "vis" in name for name in mlx.arrays)


def test_tied_embeddings_have_no_head(tmp_path: Path) -> None:
    weights = load(made(tmp_path, "mlx-ud-mxfp8", tied=True))
    assert "lm_head.weight" not in weights.arrays
    assert not weights.set_aside


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.default is not None])
def test_formats_are_inferred_without_a_map(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, name)
    with_map = load(folder, dequantize=False)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["quantization"], config["quantization_config"]
    file.write_text(json.dumps(config))
    assert load(folder, dequantize=False).quantized == with_map.quantized


def test_progress_rises_to_the_total(tmp_path: Path) -> None:
    for name in ("original", "mlx-ud-mxfp8"):
        folder = made(tmp_path, name, with_vision=True)
        calls: list[tuple[int, int]] = []
        load_weights(
            folder,
            read_config(folder),
            compute_dtype=mx.float32,
            dequantize=True,
            progress=lambda done, total, calls=calls: calls.append((done, total)),
        )
        done = [call[0] for call in calls]
        assert done == sorted(done)
        assert {total for _, total in calls} == {done[-1]}
        assert done[-1] < load(folder).bytes_on_disk  # vision is not read


def test_the_fingerprint_is_stable_and_sees_a_change(tmp_path: Path) -> None:
    folder = made(tmp_path, "mlx-ud-mxfp8")
    first = load(folder).fingerprint
    assert load(folder).fingerprint == first
    made(tmp_path, "mlx-ud-mxfp8", seed=1)
    assert load(folder).fingerprint != first
    made(tmp_path, "mlx-ud-mxfp8", seed=0)
    assert load(folder).fingerprint == first
    config = folder / "config.json"
    config.write_text(config.read_text().replace("10000000", "20000000"))
    assert load(folder).fingerprint != first


def test_dequantizing_fits_by_free_memory_on_a_cpu_only(tmp_path: Path) -> None:
    folder = made(tmp_path, "mlx-ud-mxfp8")
    config = read_config(folder)
    need = 4 * parameter_count(config)

    def fits(kind, available: int) -> bool:
        info = DeviceInfo(kind, "x", mx.float32, 10 * need, available, "y")
        return dequantize_fits(folder, config, info)

    assert fits("cpu", 2 * need + (1 << 20))
    assert not fits("cpu", int(1.6 * need))
    assert not fits("metal", 10 * need)


def test_the_real_model_has_the_published_number_of_weights(tmp_path: Path) -> None:
    top = {"model_type": "qwen3_5_moe", "text_config": GEOMETRIES["full"]}
    (tmp_path / "config.json").write_text(json.dumps(top))
    config = read_config(tmp_path)
    assert parameter_count(config) == 34_660_610_688
    assert len(expected_tensors(config)) == 3 + 30 * 19 + 10 * 16


_MEASURE = """
import resource, sys
from pathlib import Path
from model import device
import mlx.core as mx
from model.checkpoint import load_weights
from model.config import read_config
from model.load_plan import plan_loading

def peak():
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux's ru_maxrss includes what the parent had before exec.
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024

folder = Path(sys.argv[1])
config = read_config(folder)
plan_loading(folder, config)
mx.eval(mx.zeros(4))
before = peak()
weights = load_weights(folder, config, compute_dtype=mx.bfloat16, dequantize=False)
print((peak() - before) / weights.bytes_on_disk)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "layers", "shards"),
    [("mlx-ud-mxfp8", 4, 1), ("mlx-ud-mxfp8", 4, 4), ("mlx-bf16", 3, 1), ("original", 3, 1)],
)
def test_memory_peaks_little_above_the_file_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, layers: int, shards: int
) -> None:
    """Although most of it is joined; kept twice, it would be 1.8 times the file."""
    wide = GEOMETRIES["tiny"] | {
        "hidden_size": 1024,
        "num_experts": 64,
        "moe_intermediate_size": 256,
        "shared_expert_intermediate_size": 256,
        "vocab_size": 16384,
    }
    monkeypatch.setattr("model.random_values.BLOCK_VALUES", 1 << 18)  # less to draw and quantize
    write_random_checkpoint(tmp_path, geometry=wide, layers=layers, format=format, shards=shards)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size > 240e6
    output = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert 0.9 < float(output) <= 1.15
