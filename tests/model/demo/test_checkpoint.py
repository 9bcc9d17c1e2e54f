"""The committed checkpoint is a folder like the published one."""

import json
import struct

import pytest

from model.demo.chat_template import CHECKPOINT

CONFIG = json.loads((CHECKPOINT / "config.json").read_text())


def tensors(name: str = "model.safetensors"):
    """name -> (dtype, shape), from the safetensors header."""
    with (CHECKPOINT / name).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return {k: (v["dtype"], v["shape"]) for k, v in header.items() if k != "__metadata__"}


TENSORS = tensors()


def test_the_whole_folder_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 12_000_000


def test_the_index_names_every_tensor():
    index = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
    head = tensors("mtp.safetensors")
    assert len(head) == 19
    assert set(index["weight_map"]) == {*TENSORS, *head}


@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        ("self_attn.q_proj", "mxfp8"),
        ("linear_attn.in_proj_qkv", "mxfp8"),
        ("linear_attn.in_proj_z", "mxfp8"),
        ("mlp.switch_mlp.down_proj", "mxfp8"),
        ("mlp.shared_expert.up_proj", "mxfp8"),
        ("embed_tokens", "affine"),
        ("lm_head", "affine"),
        ("mlp.gate", "affine"),
        ("mlp.shared_expert_gate", "affine"),
        ("self_attn.o_proj", None),
        ("linear_attn.out_proj", None),
        ("linear_attn.in_proj_a", None),
        ("linear_attn.conv1d", None),
        ("input_layernorm", None),
    ],
)
def test_the_recipe_of_the_model_card(ending, mode):
    modules = [n.removesuffix(".weight") for n in TENSORS if n.endswith(f"{ending}.weight")]
    assert modules
    for module in modules:
        dtype, shape = TENSORS[f"{module}.weight"]
        override = CONFIG["quantization"].get(module)
        if mode is None:
            assert dtype == "BF16"
            assert override is None
            continue
        assert dtype == "U32"
        scales, groups = TENSORS[f"{module}.scales"]
        group_size = 32 if mode == "mxfp8" else 64
        assert scales == ("U8" if mode == "mxfp8" else "BF16")
        assert groups[-1] * group_size == shape[-1] * 4
        assert (f"{module}.biases" in TENSORS) == (mode == "affine")
        assert override == (
            {"group_size": 32, "bits": 8, "mode": "mxfp8"} if mode == "mxfp8" else None
        )


def test_shapes_follow_the_config():
    text = CONFIG["text_config"]
    prefix = "language_model.model.layers.0"
    channels = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"]
    channels += text["linear_num_value_heads"] * text["linear_value_head_dim"]
    assert TENSORS[f"{prefix}.linear_attn.conv1d.weight"][1] == [channels, 4, 1]
    assert text["linear_key_head_dim"] % 32 == 0
    assert TENSORS[f"{prefix}.mlp.switch_mlp.gate_proj.weight"][1][:2] == [
        text["num_experts"],
        text["moe_intermediate_size"],
    ]
    interval = text["full_attention_interval"]
    for i, kind in enumerate(text["layer_types"]):
        assert (kind == "full_attention") == ((i + 1) % interval == 0)


def test_both_ends_of_an_answer_stop_generation():
    generation = json.loads((CHECKPOINT / "generation_config.json").read_text())
    tokenizer = json.loads((CHECKPOINT / "tokenizer.json").read_text())
    ids = {t["content"]: t["id"] for t in tokenizer["added_tokens"]}
    assert generation["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert CONFIG["text_config"]["eos_token_id"] == ids["<|endoftext|>"]
