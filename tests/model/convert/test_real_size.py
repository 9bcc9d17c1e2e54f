"""The real model's plan, from headers over files that hold nothing (66 GB that take no room)."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest

from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.report import plan_text, summary
from model.convert.source import open_source
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES, mtp_shapes, vision_config, vision_shapes
from model.safetensors_files import INDEX, stored_tensors
from model.tensors import Shape

FULL = GEOMETRIES["full"]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names as a small original checkpoint has them, shapes of the real one, no values."""
    folder = tmp_path_factory.mktemp("real")
    tiny = FULL | {
        "num_hidden_layers": 4, "hidden_size": 64, "vocab_size": 256, "num_experts": 8,
        "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    }  # fmt: skip
    write_random_checkpoint(folder / "small", geometry=tiny, format="original")
    shapes: dict[str, Shape] = {}
    for name, tensor in stored_tensors(folder / "small").items():
        head, layer, rest = name.partition(".layers.")
        if not layer:
            shapes[name] = real_shape(name, tensor.shape)
            continue
        number, _, inner = rest.partition(".")
        for i in range(int(number), FULL["num_hidden_layers"], 4):
            shapes[f"{head}.layers.{i}.{inner}"] = real_shape(inner, tensor.shape)
    vision = vision_config(FULL)
    for name, shape in vision_shapes(vision, original=True).items():
        shapes[f"model.visual.{name}"] = shape
    attention = {
        name.split("layers.3.")[1]: shape for name, shape in shapes.items() if "layers.3." in name
    }
    shapes |= mtp_shapes(attention, FULL["hidden_size"])
    config = json.loads((folder / "small" / "config.json").read_text())
    config["text_config"] = FULL | {"mtp_num_hidden_layers": 1}
    config["vision_config"] = vision
    (folder / "config.json").write_text(json.dumps(config))
    write_headers(folder, shapes)
    return folder


def real_shape(name: str, small: Shape) -> Shape:
    """Each size of the small one by what it is; the experts' inner width is fused in one."""
    hidden, inner = FULL["hidden_size"], FULL["moe_intermediate_size"]
    if "experts.gate_up_proj" in name:
        return FULL["num_experts"], 2 * inner, hidden
    if "experts.down_proj" in name:
        return FULL["num_experts"], hidden, inner
    if name.endswith("mlp.gate.weight"):
        return FULL["num_experts"], hidden
    if "shared_expert." in name:
        return (hidden, inner) if "down_proj" in name else (inner, hidden)
    if "conv1d" in name or name.endswith(("A_log", "dt_bias")) or small == (128,):
        return small
    sizes = {64: hidden, 256: FULL["vocab_size"]} if ".weight" in name else {}
    if "_norm.weight" in name and "layernorm" not in name:
        return small
    if "self_attn" in name or "linear_attn" in name:
        sizes.pop(256, None)
    return tuple(sizes.get(size, size) for size in small)


def write_headers(folder: Path, shapes: dict[str, Shape]) -> None:
    """Files of some 4 GB each that are all hole behind their headers."""
    files: list[dict[str, Shape]] = [{}]
    for name, shape in shapes.items():
        if sum(map(prod, files[-1].values())) > 2_000_000_000:
            files.append({})
        files[-1][name] = shape
    weight_map: dict[str, str] = {}
    for number, group in enumerate(files, 1):
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        end, header = 0, {}
        for name, shape in group.items():
            start, end = end, end + 2 * prod(shape)
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as opened:
            opened.write(len(text).to_bytes(8, "little") + text)
            opened.truncate(8 + len(text) + end)
        weight_map |= dict.fromkeys(group, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_sizes_are_those_of_the_published_file(real: Path) -> None:
    source = open_source(real)
    text = sum(prod(t.shape) for t in source.tensors.values() if t.part == "text")
    assert text == 34_660_610_688
    plan = plan_conversion(source, RECIPES["ud-mxfp8"], drop=("mtp",))
    assert plan.nbytes == pytest.approx(36.999e9, rel=1e-3)
    figures = summary(plan)
    assert figures["bytes_per_token"]["weights"] == pytest.approx(3.385e9, rel=2e-3)
    section = RECIPES["ud-mxfp8"].config_section(plan.quantized())
    assert section is not None
    overrides = [value for value in section.values() if isinstance(value, dict)]
    assert len(overrides) == 330
    assert all(value == {"bits": 8, "group_size": 32, "mode": "mxfp8"} for value in overrides)
    fast = summary(plan_conversion(source, RECIPES["ud-mxfp8-fast"], drop=("mtp",)))
    saved = 1 - fast["bytes_per_token"]["weights"] / figures["bytes_per_token"]["weights"]
    assert saved == pytest.approx(0.09, abs=0.005)


def test_the_plan_in_words(real: Path) -> None:
    plan = plan_conversion(open_source(real), RECIPES["ud-mxfp8"])
    text = plan_text(plan)
    experts = next(line for line in text.splitlines() if "switch_mlp.gate_proj" in line)
    assert experts.split()[1:] == [
        "mxfp8", "256x512x2048", "40", "8.25", "11.073", "GB", "346.0", "MB",
    ]  # fmt: skip
    assert "mtp.*" in text
    assert "35.9" in text  # G parameters with MTP, as the model card says
