"""Pre-scaling: exact before quantization, applied where it helps and only there, never silent."""

import json
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from model.config import read_config
from model.convert.awq import Plan, in_words, plan_prescaling
from model.convert.awq_groups import norm_groups
from model.convert.imatrix import Imatrix, write_imatrix
from model.convert.imatrix_names import inputs_of
from model.convert.prescale import Importance
from model.convert.recipe import RECIPES
from model.convert.source import Source, open_source
from model.errors import CheckpointError
from model.loading import DEMO_FOLDER, load_model
from model.quality.compare import compare
from model.quality.moments import make_imatrix
from model.quality.streaming import open_checkpoint
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES
from server.cli import main

RANDOM = np.random.default_rng(5)
WINDOWS = [RANDOM.integers(0, 2000, 64).tolist() for _ in range(3)]
ALWAYS = -np.inf
SMALL = GEOMETRIES["tiny"] | {"full_attention_interval": 2, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original layout, with norms that drive some inputs a hundred times as much as others, as
    those of trained networks do, and weights that are smaller there."""
    folder = tmp_path_factory.mktemp("uneven")
    write_random_checkpoint(folder, geometry=SMALL, format="original")
    arrays = mx.load(str(folder / "model.safetensors"))
    assert isinstance(arrays, dict)
    config = read_config(folder)
    for group in norm_groups(config):
        spread = np.exp(RANDOM.normal(0, 1.2, config.hidden_size)).astype(np.float32)
        name = group.norm.replace("model.", "model.language_model.", 1)
        arrays[name] = mx.array(spread - 1).astype(mx.bfloat16)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


@pytest.fixture(scope="module")
def made(uneven: Path) -> Imatrix:
    return make_imatrix(open_checkpoint(str(uneven)), WINDOWS)


@pytest.fixture(scope="module")
def importance(made: Imatrix) -> Importance:
    return made.importance()


def random_importance(source: Source, spread: float) -> Importance:
    """One in which inputs differ by e to the `spread`; 0 is none at all."""
    return {
        module: np.exp(
            RANDOM.normal(0, spread, (matrices, inputs) if ".switch_mlp." in module else inputs)
        ).astype(np.float32)
        for module, (matrices, inputs) in inputs_of(source.config).items()
    }


def write_float32(source: Source, plan: Plan | None, folder: Path) -> Path:
    """The checkpoint in float32, with the plan applied."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((source.folder / name).read_bytes())
    arrays: dict[str, mx.array] = {}
    for name, tensor in source.tensors.items():
        values = tensor.values()
        if plan is not None and name in plan.scalings:
            values = plan.scalings[name].apply(values)
        arrays[f"language_model.{name}"] = mx.array(values)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def demo_as_source(folder: Path) -> Path:
    """The demo's weights, dequantized."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((DEMO_FOLDER / name).read_bytes())
    config = json.loads((DEMO_FOLDER / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    demo = open_checkpoint(str(DEMO_FOLDER))
    arrays = {f"language_model.{name}": demo.tensor(name) for name in demo.planned()}
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


@pytest.mark.parametrize("which", ["demo", "random"])
def test_logits_stay_the_same_before_quantization(which: str, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    if which == "demo":
        demo_as_source(folder)
    else:
        write_random_checkpoint(folder, geometry=SMALL, format="original")
    source = open_source(folder)
    importance = random_importance(source, 2)
    plan = plan_prescaling(source, RECIPES["mxfp8"], importance, least_gain=ALWAYS)
    groups = norm_groups(source.config)
    scaled = {f"{m}.weight" for g in groups for m in g.consumers} | {g.norm for g in groups}
    assert plan.scalings.keys() == scaled
    factors = plan.scalings[f"{groups[0].consumers[0]}.weight"].inputs
    assert factors is not None
    assert factors.max() / factors.min() > 3
    before = load_model(write_float32(source, None, tmp_path / "before"), dequantize=True)
    after = load_model(write_float32(source, plan, tmp_path / "after"), dequantize=True)
    logits = (np.array(model.logits(WINDOWS[0])) for model in (after, before))
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


def test_norms_are_what_bfloat16_holds(uneven: Path, importance: Importance) -> None:
    """So their rounding is made up for by the weights, and adds no error."""
    source = open_source(uneven)
    plan = plan_prescaling(source, RECIPES["mxfp4"], importance, least_gain=ALWAYS)
    for group in norm_groups(source.config):
        norm = source.tensors[group.norm].values()
        scaled = plan.scalings[group.norm].apply(norm)
        held = np.array(mx.array(scaled).astype(mx.bfloat16).astype(mx.float32))
        np.testing.assert_allclose(scaled, held, rtol=1e-6)
        inputs = plan.scalings[f"{group.consumers[0]}.weight"].inputs
        assert inputs is not None
        np.testing.assert_allclose(held * inputs, norm, rtol=1e-6)


def test_it_is_applied_where_the_error_falls(uneven: Path, importance: Importance) -> None:
    source = open_source(uneven)
    done: list[tuple[int, int]] = []
    plan = plan_prescaling(
        source, RECIPES["affine4"], importance, progress=lambda *norms: done.append(norms)
    )
    groups = norm_groups(source.config)
    assert done[-1] == (len(groups), len(groups))
    assert [line["norm"] for line in plan.report] == [group.norm for group in groups]
    applied = [line for line in plan.report if line["applied"]]
    assert len(applied) >= len(groups) // 2
    for line in applied:
        assert line["error_after"] < 0.99 * line["error"]
        assert line["alpha"] in (0.25, 0.5, 0.75, 1.0)
        assert line["smallest_factor"] < 1 < line["largest_factor"]
        group = next(group for group in groups if group.norm == line["norm"])
        assert set(line["tensors"]) == set(group.consumers)
    for line in plan.report:
        scaled = line["norm"] in plan.scalings
        assert scaled == line["applied"]
        assert line["applied"] or "changes the squared error" in line["why"]
    json.dumps(plan.report)


def test_even_inputs_are_left_alone(tmp_path: Path) -> None:
    """There is nothing to gain, and what seems to be a gain on some rows is none on others."""
    write_random_checkpoint(tmp_path, geometry=SMALL, format="original")
    source = open_source(tmp_path)
    even = random_importance(source, 0)
    plan = plan_prescaling(source, RECIPES["mxfp4"], even)
    assert plan.scalings == {}
    assert all("changes the squared error by" in line["why"] for line in plan.report)


def without(importance: Importance, module: str) -> Mapping[str, np.ndarray]:
    return {name: values for name, values in importance.items() if name != module}


def test_what_an_imatrix_lacks_is_told(uneven: Path, importance: Importance) -> None:
    source = open_source(uneven)
    gate = "model.layers.1.mlp.gate"
    plan = plan_prescaling(source, RECIPES["affine4"], without(importance, gate))
    lines = {line["norm"]: line for line in plan.report}
    line = lines["model.layers.1.post_attention_layernorm.weight"]
    assert line == {
        "norm": "model.layers.1.post_attention_layernorm.weight",
        "applied": False,
        "why": f"the imatrix has no entry for {gate}",
    }
    assert not any(".layers.1.mlp." in name for name in plan.scalings)
    assert f"AWQ: 1 norms left: {line['why']}" in in_words(plan.report)
    prefixed = {f"language_model.{name}": values for name, values in importance.items()}
    with pytest.raises(CheckpointError, match="no entry for any matrix that AWQ could scale"):
        plan_prescaling(source, RECIPES["affine4"], prefixed)


def test_nothing_is_scaled_where_nothing_is_quantized(uneven: Path, importance: Importance) -> None:
    plan = plan_prescaling(open_source(uneven), RECIPES["bf16"], importance)
    assert plan.scalings == {}
    assert in_words(plan.report) == [
        "AWQ: 0 of 4 norms are scaled with all their consumers",
        "AWQ: 4 norms left: no consumer is quantized",
    ]


def test_a_conversion_with_it_is_nearer(uneven: Path, made: Imatrix, tmp_path: Path) -> None:
    file = tmp_path / "uneven.gguf"
    write_imatrix(file, made, read_config(uneven))
    for mode in ("auto", "off"):
        flags = ["--recipe", "affine4", "--imatrix", str(file), "--awq", mode]
        assert main(["convert", str(uneven), str(tmp_path / mode), *flags]) == 0
    record = json.loads((tmp_path / "auto" / "conversion.json").read_text())
    assert any(line["applied"] for line in record["awq"]["report"])
    reference = open_checkpoint(str(uneven))
    others = [open_checkpoint(str(tmp_path / mode)) for mode in ("auto", "off")]
    auto, off = (each.to_json() for each in compare(reference, others, WINDOWS))
    assert auto["kl_mean"] < 0.95 * off["kl_mean"]
