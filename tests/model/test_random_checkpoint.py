import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors import safe_open

from model.config import QuantSpec, read_config
from model.load_plan import plan_loading
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES, random_block, repeated
from model.storage_formats import FORMATS
from model.tokenizer import Tokenizer

CARD = {  # the model card's table
    "model.embed_tokens": ("affine", 64),
    "lm_head": ("affine", 64),
    "model.layers.0.mlp.gate": ("affine", 64),
    "model.layers.0.mlp.shared_expert_gate": ("affine", 64),
    "model.layers.0.mlp.switch_mlp.down_proj": ("mxfp8", 32),
    "model.layers.0.mlp.shared_expert.up_proj": ("mxfp8", 32),
    "model.layers.0.linear_attn.in_proj_qkv": ("mxfp8", 32),
    "model.layers.0.linear_attn.in_proj_z": ("mxfp8", 32),
    "model.layers.0.linear_attn.in_proj_a": None,
    "model.layers.0.linear_attn.out_proj": None,
    "model.layers.3.self_attn.k_proj": ("mxfp8", 32),
    "model.layers.3.self_attn.o_proj": None,
}


def headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(str(file), "numpy") as opened:
            for name in opened.keys():  # noqa: SIM118
                part = opened.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()))
    return found


def test_fewer_experts_and_a_text_for_every_id(tmp_path: Path) -> None:
    small = GEOMETRIES["tiny"] | {"vocab_size": 3000}
    write_random_checkpoint(tmp_path, geometry=small, layers=1, experts=4)
    config = read_config(tmp_path)
    assert (config.num_experts, config.vocab_size) == (4, 3000)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert all(tokenizer.decode([i]) for i in range(2048, 3000))
    assert tokenizer.decode(tokenizer.encode("a river")) == "a river"
    with pytest.raises(ValueError, match="experts"):
        write_random_checkpoint(tmp_path, experts=1)


def test_the_cards_recipe(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=4, format="mlx-ud-mxfp8")
    plan = plan_loading(tmp_path, read_config(tmp_path))
    specs = {tensor.module: tensor.spec for tensor in plan.tensors}
    for module, expected in CARD.items():
        spec = specs[module]
        assert (spec and (spec.mode, spec.group_size)) == expected, module
    section = json.loads((tmp_path / "config.json").read_text())["quantization"]
    assert {k: section[k] for k in ("bits", "group_size", "mode")} == {
        "bits": 8,
        "group_size": 64,
        "mode": "affine",
    }
    overrides = {key: value for key, value in section.items() if isinstance(value, dict)}
    assert len(overrides) == 3 * 8 + 9
    assert {value["mode"] for value in overrides.values()} == {"mxfp8"}


def test_original_names_and_shapes(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=4, format="original", with_vision=True, with_mtp=True)
    found = headers(tmp_path)
    assert found["model.language_model.embed_tokens.weight"] == ("BF16", (2048, 128))
    assert found["lm_head.weight"] == ("BF16", (2048, 128))
    layer = "model.language_model.layers.0"
    assert found[f"{layer}.mlp.experts.gate_up_proj"] == ("BF16", (16, 128, 128))
    assert found[f"{layer}.mlp.experts.down_proj"] == ("BF16", (16, 128, 64))
    assert found[f"{layer}.linear_attn.conv1d.weight"] == ("BF16", (256, 1, 4))
    assert found["model.visual.patch_embed.proj.weight"] == ("BF16", (32, 3, 2, 16, 16))
    assert sum(name.startswith("mtp.") for name in found) == 19
    assert found["mtp.fc.weight"] == ("BF16", (128, 256))
    assert not any("switch_mlp" in name for name in found)


def test_seeds_repeat_and_differ(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_checkpoint(tmp_path / name, layers=1, seed=seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_hold_every_tensor_once(tmp_path: Path, shards: int) -> None:
    write_random_checkpoint(tmp_path, layers=4, shards=shards)
    files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(files) == shards
    assert set(weight_map.values()) == set(files)
    assert set(weight_map) == set(headers(tmp_path))


def test_a_geometry_of_ones_own(tmp_path: Path) -> None:
    write_random_checkpoint(
        tmp_path, geometry=GEOMETRIES["tiny"] | {"hidden_size": 192}, layers=2, tied=True
    )
    config = read_config(tmp_path)
    assert (config.hidden_size, config.num_hidden_layers) == (192, 2)
    assert config.tie_word_embeddings
    assert not any("lm_head" in name for name in headers(tmp_path))


def test_full_geometry_is_the_real_model() -> None:
    full = GEOMETRIES["full"]
    sizes = ("hidden_size", "num_hidden_layers", "num_experts", "vocab_size")
    assert tuple(full[size] for size in sizes) == (2048, 40, 256, 248_320)


def test_blocks_are_repeated_turned_so_that_rows_differ() -> None:
    block = mx.arange(4 * 8).reshape(4, 8)
    whole = repeated(block, 10, 2)
    assert whole.shape == (10, 8)
    assert len({tuple(row) for row in whole.tolist()}) == 10  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]
    assert whole[9].tolist() == mx.roll(block[1], 4).tolist()


def test_turned_quantized_blocks_are_the_turned_values() -> None:
    """What lets a large tensor be quantized once: 64 columns are whole groups in every format."""
    block = random_block(0, "model.embed_tokens.weight", (4, 256))
    for name in ("mlx-affine4", "mlx-mxfp8", "mlx-nvfp4"):
        spec = FORMATS[name].default
        assert spec is not None
        turns = (64 * spec.bits // 32, 64 // spec.group_size, 64 // spec.group_size)

        def values(parts: list[mx.array], spec: QuantSpec = spec) -> mx.array:
            return mx.dequantize(*parts, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)

        parts = mx.quantize(block, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
        turned = [repeated(p, 8, turn) for p, turn in zip(parts, turns, strict=False)]
        expected = repeated(values(list(parts)), 8, 64)
        assert mx.array_equal(values(turned), expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "gguf"}, "expected one of mlx-ud-mxfp8"),
        ({"geometry": "huge"}, "expected one of tiny, full"),
        ({"layers": 0}, "at least 1"),
        ({"shards": 0}, "at least 1"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write_random_checkpoint(tmp_path, **options)


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "model.random_checkpoint", str(tmp_path / "made")]
    command += ["--layers", "1", "--format", "mlx-affine4", "--seed", "3", "--shards", "2"]
    subprocess.run(command, check=True, timeout=120)
    write_random_checkpoint(tmp_path / "same", layers=1, format="mlx-affine4", seed=3, shards=2)
    for file in (tmp_path / "same").iterdir():
        assert (tmp_path / "made" / file.name).read_bytes() == file.read_bytes()
    wrong = subprocess.run([*command, "--layers", "0"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "at least 1" in wrong.stderr
