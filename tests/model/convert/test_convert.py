"""A conversion as a whole: what it writes, and what it says of a source that is not clean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import model.convert.convert as running
from model.checkpoint import load_weights
from model.config import read_config
from model.convert.convert import units_of
from model.convert.journal import RECORD
from model.convert.plan import MTP_FILE, plan_conversion
from model.convert.prescale import Scaling
from model.convert.quantize import dequantize, quantize
from model.convert.recipe import RECIPES
from model.convert.source import Source, open_source
from model.errors import CheckpointError
from model.loading import load_model
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES
from model.safetensors_files import stored_tensors
from tests.model.convert.jobs import job_of

ROOT = Path(__file__).parents[3]
TOKENS = [5 + 7 * i % 400 for i in range(40)]


def logits(folder: Path) -> mx.array:
    return load_model(folder).logits(TOKENS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_loads_and_holds_the_source_in_its_format(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    job_of(original, tmp_path, recipe, shard_bytes=500_000).run(None)
    monkeypatch.setattr("model.checkpoint.joins", lambda config, spec_of: ())
    config = read_config(tmp_path)
    loaded = load_weights(tmp_path, config, compute_dtype=mx.float32, dequantize=True).arrays
    source = open_source(original)
    for name, array in loaded.items():
        tensor = source.tensors[name]
        spec = RECIPES[recipe].decide(tensor.module, tensor.shape)
        values = tensor.values()
        if spec is not None and tensor.kind == "matrix":
            values = dequantize(quantize(tensor.bits(), spec)[0], spec)
        np.testing.assert_allclose(np.array(array), values, rtol=1e-6, err_msg=name)


def test_units_are_small_and_cover_every_row_once(
    original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bounds the memory: a fused tensor of all experts is never read as a whole."""
    monkeypatch.setattr(running, "UNIT_VALUES", 20_000)
    plan = plan_conversion(open_source(original), RECIPES["mxfp8"])
    reached = dict.fromkeys(range(len(plan.outputs)), 0)
    for unit in units_of(plan):
        assert unit.start == reached[unit.output]
        reached[unit.output] = unit.stop
        row = plan.outputs[unit.output].tensor.row_values
        assert (unit.stop - unit.start) * row <= max(20_000, row)
    assert all(stop == plan.outputs[i].tensor.shape[0] for i, stop in reached.items())


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_is_what_a_checkpoint_of_that_format_has(
    original: Path, tmp_path: Path, recipe: str
) -> None:
    job_of(original, tmp_path / "made", recipe).run(None)
    write_random_checkpoint(
        tmp_path / "known", layers=4, format=f"mlx-{recipe}", with_vision=True, with_mtp=True
    )
    made, known = (
        json.loads((tmp_path / name / "config.json").read_text()) for name in ("made", "known")
    )
    assert made == known
    shapes = [
        {t.name: (t.dtype, t.shape) for t in stored_tensors(tmp_path / name).values()}
        for name in ("made", "known")
    ]
    assert shapes[0] == shapes[1]


def test_bf16_computes_what_the_original_does(original: Path, tmp_path: Path) -> None:
    job_of(original, tmp_path, "bf16").run(None)
    assert float(mx.abs(logits(tmp_path) - logits(original)).max()) < 1e-4


def test_files_beside_the_weights_and_a_file_for_mtp(original: Path, tmp_path: Path) -> None:
    job_of(original, tmp_path, shard_bytes=1_000_000).run(None)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (original / name).read_bytes()
    generation = (tmp_path / "generation_config.json").read_bytes()
    assert generation == (original / "generation_config.json").read_bytes()
    stored = stored_tensors(tmp_path)
    assert len({tensor.file for tensor in stored.values()}) > 2
    mtp = {name: tensor for name, tensor in stored.items() if name.startswith("mtp.")}
    assert {tensor.file.name for tensor in mtp.values()} == {MTP_FILE}
    before, after = open_source(original).tensors, mx.load(str(tmp_path / MTP_FILE))
    assert isinstance(after, dict)
    assert after.keys() == mtp.keys()
    assert all(np.array_equal(before[n].bits(), np.array(after[n].view(mx.uint16))) for n in after)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set()
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["recipe"] == "ud-mxfp8"
    assert record["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))


def test_what_is_dropped_is_gone_from_tensors_and_config(original: Path, tmp_path: Path) -> None:
    job_of(original, tmp_path, drop=("vision", "mtp")).run(None)
    assert all(name.startswith("language_model.") for name in stored_tensors(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert "vision_config" not in config
    assert config["text_config"]["mtp_num_hidden_layers"] == 0


def test_a_tied_head_is_left_out(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "a", layers=1, format="original", tied=True)
    job_of(tmp_path / "a", tmp_path / "b").run(None)
    assert not any("lm_head" in name for name in stored_tensors(tmp_path / "b"))
    assert logits(tmp_path / "b").shape == (len(TOKENS), 2048)


def test_odd_widths_stay_bf16_where_they_are_no_groups(tmp_path: Path) -> None:
    text = GEOMETRIES["tiny"] | {"hidden_size": 96, "moe_intermediate_size": 80}
    write_random_checkpoint(tmp_path / "a", geometry=text, layers=4, format="original")
    job_of(tmp_path / "a", tmp_path / "b", "mxfp8").run(None)
    stored = stored_tensors(tmp_path / "b")
    layer = "language_model.model.layers.0.mlp"
    assert stored[f"{layer}.switch_mlp.down_proj.weight"].dtype == "BF16"  # 80 inputs
    assert stored[f"{layer}.switch_mlp.up_proj.weight"].dtype == "U32"  # 96 inputs
    assert stored[f"{layer}.gate.weight"].dtype == "BF16"  # 96 are no groups of 64
    assert logits(tmp_path / "b").shape == (len(TOKENS), 2048)


@pytest.mark.parametrize(
    "name",
    [
        "model.language_model.layers.1.mlp.experts.gate_up_proj",
        "model.language_model.layers.3.self_attn.o_proj.weight",
        "model.language_model.norm.weight",
        "model.language_model.layers.0.linear_attn.A_log",
        "mtp.fc.weight",
    ],
)
def test_a_nan_is_an_error_that_names_the_tensor(original: Path, tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    shutil.copytree(original, source)
    tensor = next(t for t in open_source(source).tensors.values() if t.stored.name == name)
    with tensor.stored.file.open("r+b") as file:
        file.seek(tensor.offset + 2)
        file.write(b"\xc0\x7f")
    with pytest.raises(CheckpointError, match=rf"{name}: expected numbers, found a NaN"):
        job_of(source, tmp_path / "x").run(None)


def test_infinities_are_counted_by_tensor(original: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(original, source)
    tensor = open_source(source).tensors["model.layers.0.mlp.switch_mlp.up_proj.weight"]
    with tensor.stored.file.open("r+b") as file:
        file.seek(tensor.offset + 2 * tensor.row_values)  # the up half of the first expert
        file.write(b"\x80\x7f\x80\xff")
    said: list[str] = []
    record = job_of(source, tmp_path / "x").run(None, say=said.append)
    assert record["infinities"] == {tensor.stored.name: 2}
    assert any(f"{tensor.stored.name}: 2 infinities" in line for line in said)
    assert bool(mx.isfinite(logits(tmp_path / "x")).all())


def test_scaling_by_powers_of_two_changes_nothing_where_nothing_is_quantized(
    original: Path, tmp_path: Path
) -> None:
    source = open_source(original)
    plan = plan_conversion(source, RECIPES["bf16"])
    scalings = _scalings(source)
    journal = running.Journal(tmp_path, {})
    running.convert(plan, tmp_path, journal, running.Influence(scalings), {})
    assert float(mx.abs(logits(tmp_path) - logits(original)).max()) < 1e-4
    weights = mx.load(str(tmp_path / "model.safetensors"))
    assert isinstance(weights, dict)
    norm = weights["language_model.model.layers.0.post_attention_layernorm.weight"]
    plain = source["model.layers.0.post_attention_layernorm.weight"].astype(mx.bfloat16)
    assert not mx.array_equal(norm, plain)


def _scalings(source: Source) -> dict[str, Scaling]:
    """The inputs of all that read a layer's second norm, and each expert's inner values."""
    random = np.random.default_rng(1)
    found: dict[str, Scaling] = {}
    for layer in range(source.config.num_hidden_layers):
        path = f"model.layers.{layer}"
        factors = np.exp2(random.integers(-2, 3, source.config.hidden_size)).astype(np.float32)
        found[f"{path}.post_attention_layernorm.weight"] = Scaling(outputs=np.reciprocal(factors))
        for name in ("gate", "shared_expert_gate", "shared_expert.gate_proj"):
            found[f"{path}.mlp.{name}.weight"] = Scaling(inputs=factors)
        found[f"{path}.mlp.switch_mlp.gate_proj.weight"] = Scaling(inputs=factors)
        experts, _, inner = source.tensors[f"{path}.mlp.switch_mlp.down_proj.weight"].shape
        within = np.exp2(random.integers(-2, 3, (experts, inner))).astype(np.float32)
        for kind, each in (("switch_mlp", within), ("shared_expert", within[0])):
            found[f"{path}.mlp.{kind}.up_proj.weight"] = Scaling(factors, np.reciprocal(each))
            found[f"{path}.mlp.{kind}.down_proj.weight"] = Scaling(each)
    return found
