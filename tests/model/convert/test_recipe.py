"""The tables: what they say of every kind of matrix."""

import pytest

from model.config import QuantSpec
from model.convert.recipe import RECIPES

TABLES = ("model.embed_tokens", "lm_head")
GATES = ("model.layers.3.mlp.gate", "model.layers.3.mlp.shared_expert_gate")
EXPERTS = tuple(
    f"model.layers.3.mlp.{kind}.{part}_proj"
    for kind in ("switch_mlp", "shared_expert")
    for part in ("gate", "up", "down")
)
INPUTS = tuple(f"model.layers.3.self_attn.{part}_proj" for part in "qkv") + tuple(
    f"model.layers.0.linear_attn.in_proj_{part}" for part in ("qkv", "z")
)
OUTPUTS = ("model.layers.3.self_attn.o_proj", "model.layers.0.linear_attn.out_proj")
SMALL = ("model.layers.0.linear_attn.in_proj_a", "model.layers.0.linear_attn.in_proj_b")
ALL = TABLES + GATES + EXPERTS + INPUTS + OUTPUTS + SMALL
A8, A4 = QuantSpec(8, 64, "affine"), QuantSpec(4, 64, "affine")
M8, M4 = QuantSpec(8, 32, "mxfp8"), QuantSpec(4, 32, "mxfp4")

CARD = dict.fromkeys(TABLES + GATES, A8) | dict.fromkeys(EXPERTS + INPUTS, M8)
EXPECTED = {
    "ud-mxfp8": dict.fromkeys(ALL) | CARD,
    "ud-mxfp8-fast": dict.fromkeys(ALL) | CARD | dict.fromkeys(OUTPUTS, A8),
    "mxfp8": dict.fromkeys(ALL, M8) | dict.fromkeys(GATES, A8),
    "mxfp4": dict.fromkeys(ALL, M4) | dict.fromkeys(GATES, A8),
    "affine8": dict.fromkeys(ALL, A8),
    "affine4": dict.fromkeys(ALL, A4) | dict.fromkeys(GATES, A8),
    "bf16": dict.fromkeys(ALL),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_matrix_has_its_format(name: str) -> None:
    recipe = RECIPES[name]
    assert {module: recipe.spec(module) for module in ALL} == EXPECTED[name]
    prefixed = {module: recipe.spec(f"language_model.{module}") for module in ALL}
    assert prefixed == EXPECTED[name]


@pytest.mark.parametrize("name", RECIPES)
def test_config_says_what_the_header_does_not(name: str) -> None:
    recipe, expected = RECIPES[name], EXPECTED[name]
    section = recipe.config_section(ALL)
    if name == "bf16":
        assert section is None
        return
    assert section is not None
    header = QuantSpec(section.pop("bits"), section.pop("group_size"), section.pop("mode"))
    assert header == recipe.header
    for module in ALL:
        named = section.get(f"language_model.{module}")
        spec = header if named is None else QuantSpec(**named)
        assert expected[module] in (None, spec)


def test_a_width_that_is_no_whole_number_of_groups_stays_bf16() -> None:
    recipe = RECIPES["mxfp8"]
    assert recipe.decide("model.layers.0.mlp.switch_mlp.up_proj", (4, 8, 96)) == M8
    assert recipe.decide("model.layers.0.mlp.switch_mlp.up_proj", (4, 8, 80)) is None
    assert recipe.decide("model.layers.0.mlp.gate", (4, 96)) is None
