import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.config import GenerationDefaults, QuantSpec, module_path, read_config
from model.errors import CheckpointError
from model.random_values import GEOMETRIES

AFFINE8 = {"bits": 8, "group_size": 64, "mode": "affine"}
MXFP8 = {"bits": 8, "group_size": 32, "mode": "mxfp8"}


def real_config() -> dict[str, Any]:
    text = json.loads(json.dumps(GEOMETRIES["full"]))
    return {
        "model_type": "qwen3_5_moe",
        "tie_word_embeddings": False,
        "text_config": text | {"eos_token_id": 248044, "norm_topk_prob": None},
    }


def write(folder: Path, config: Any, generation: Any = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_the_real_sizes(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, real_config()))
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (2048, 40, 248_320)
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [
        *range(3, 40, 4)
    ]
    assert (config.head_dim, config.rotary_dims, config.rope_theta) == (256, 64, 1e7)
    assert (config.num_experts, config.num_experts_per_tok) == (256, 8)
    assert config.max_position_embeddings == 262_144
    assert config.quantization.default is None
    assert not config.tie_word_embeddings
    assert config.generation.eos_token_ids == (248044,)


def test_a_flat_config_says_the_same_as_a_nested_one(tmp_path: Path) -> None:
    nested = read_config(write(tmp_path, real_config()))
    flat = real_config()["text_config"] | {"model_type": "qwen3_5_moe_text"}
    assert read_config(write(tmp_path, flat)) == nested


def test_layer_types_win_over_the_interval(tmp_path: Path) -> None:
    raw = real_config()
    types = ["full_attention", "linear_attention", "linear_attention"]
    raw["text_config"] |= {"num_hidden_layers": 3, "layer_types": types}
    assert list(read_config(write(tmp_path, raw)).layer_types) == types


def test_old_rope_keys(tmp_path: Path) -> None:
    raw = real_config()
    del raw["text_config"]["rope_parameters"]
    raw["text_config"] |= {"rope_theta": 5000, "partial_rotary_factor": 0.5, "rope_scaling": None}
    config = read_config(write(tmp_path, raw))
    assert (config.rope_theta, config.rotary_dims) == (5000.0, 128)
    raw["text_config"]["rope_scaling"] = {"type": "mrope", "mrope_section": [11, 11, 10]}
    assert read_config(write(tmp_path, raw)) == config


@pytest.mark.parametrize("eos", [7, [7]])
def test_generation_config_overrides_the_end_ids(tmp_path: Path, eos: Any) -> None:
    generation = {"eos_token_id": eos, "temperature": 0.6, "top_k": 20, "do_sample": True}
    config = read_config(write(tmp_path, real_config(), generation))
    assert config.generation == GenerationDefaults((7,), True, 0.6, None, 20, None)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.", "model.language_model."])
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_quantization_map_by_any_prefix(tmp_path: Path, prefix: str, key: str) -> None:
    raw = real_config()
    raw[key] = AFFINE8 | {
        f"{prefix}layers.0.self_attn.q_proj": MXFP8,
        f"{prefix}layers.0.mlp.gate": False,
        "language_model.lm_head": {"bits": 4, "group_size": 32},
    }
    quantization = read_config(write(tmp_path, raw)).quantization
    assert quantization.default == QuantSpec(8, 64, "affine")
    assert quantization.modules == {
        "model.layers.0.self_attn.q_proj": QuantSpec(8, 32, "mxfp8"),
        "model.layers.0.mlp.gate": None,
        "lm_head": QuantSpec(4, 32, "affine"),
    }


@given(st.sampled_from(["embed_tokens", "layers.3.mlp.gate.weight", "norm.weight"]))
def test_module_path_is_one_for_all_prefixes_and_stable(rest: str) -> None:
    prefixes = ("model.", "language_model.model.", "model.language_model.")
    paths = {module_path(prefix + rest) for prefix in prefixes}
    assert paths == {f"model.{rest}"}
    assert module_path(f"model.{rest}") == f"model.{rest}"


def test_module_path_of_the_head() -> None:
    for name in ("lm_head", "language_model.lm_head", "model.language_model.lm_head"):
        assert module_path(f"{name}.weight") == "lm_head.weight"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = [
    *((key,) for key in ("model_type", "text_config", "tie_word_embeddings", "quantization")),
    *(("text_config", key) for key in [*GEOMETRIES["full"], "layer_types", "eos_token_id"]),
    *(("text_config", "rope_parameters", key) for key in GEOMETRIES["full"]["rope_parameters"]),
    *(("quantization", key) for key in ("bits", "group_size", "mode", "model.norm", "lm_head")),
]


@given(st.lists(st.tuples(st.sampled_from(KEYS), JSON), min_size=1, max_size=3))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_is_read_or_refused(tmp_path: Path, changes: list[tuple[tuple[str, ...], Any]]):
    raw = real_config() | {"quantization": dict(AFFINE8)}
    for (*parents, key), value in changes:
        section: Any = raw
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section[key] = value
    try:
        config = read_config(write(tmp_path, raw))
    except CheckpointError:
        return
    assert len(config.layer_types) == config.num_hidden_layers
    assert 2 <= config.rotary_dims <= config.head_dim


WRONG: list[tuple[str, Any, str]] = [
    ("text_config.hidden_size", None, "expected an integer of at least 1, found nothing"),
    ("text_config.hidden_size", "2048", 'found "2048"'),
    ("text_config.hidden_size", 0, "found 0"),
    ("text_config.hidden_size", True, "found true"),
    ("text_config.num_experts", 2.5, "found 2.5"),
    ("text_config.num_experts", 1 << 31, "found 2147483648"),
    ("text_config.num_hidden_layers", 1001, "at most 1000, found 1001"),
    ("text_config.rms_norm_eps", 10**400, "found 1000"),
    ("text_config.num_attention_heads", 15, "a multiple of num_key_value_heads (2), found 15"),
    ("text_config.linear_num_value_heads", 33, "a multiple of linear_num_key_heads (16)"),
    ("text_config.num_experts_per_tok", 257, "at most num_experts (256), found 257"),
    ("text_config.hidden_act", "gelu", "found 'gelu'"),
    ("text_config.attn_output_gate", False, "expected true, found false"),
    ("text_config.norm_topk_prob", False, "expected true, found false"),
    ("text_config.attention_bias", True, "expected false, found true"),
    ("text_config.mlp_only_layers", [3], "an empty list"),
    ("text_config.decoder_sparse_step", 2, "expected 1, found 2"),
    ("text_config.linear_conv_kernel_dim", 1, "at least 2"),
    ("text_config.layer_types", ["full_attention"], "a list of 40 entries, found 1 entries"),
    ("text_config.layer_types", ["sliding"] * 40, "found 'sliding'"),
    ("text_config.rope_parameters.rope_type", "yarn", "found 'yarn'"),
    ("text_config.rope_parameters.rope_theta", 0, "above 0"),
    ("text_config.rope_parameters.partial_rotary_factor", 2, "found 2"),
    ("text_config.rope_parameters.partial_rotary_factor", 0.001, "even number of the 256"),
    ("text_config.rms_norm_eps", float("inf"), "found Infinity"),
    ("text_config.rms_norm_eps", float("nan"), "found NaN"),
    ("text_config.rope_parameters", [], "expected an object"),
    ("text_config.tie_word_embeddings", "no", "expected true or false"),
    ("text_config.eos_token_id", [1, "x"], "a token id or a list of them"),
    ("text_config", 3, "expected an object"),
    ("model_type", "llama", "found 'llama'"),
    ("quantization", {"bits": 7}, "one of (2, 3, 4, 5, 6, 8), found 7"),
    ("quantization", {"bits": 8, "group_size": 48}, "found 48"),
    ("quantization", {"bits": 8, "mode": "int8"}, "found 'int8'"),
    ("quantization", {"bits": 4, "group_size": 32, "mode": "mxfp8"}, "8 with group_size 32"),
    ("quantization", {"quant_method": "fp8"}, "MLX's keys"),
]


@pytest.mark.parametrize(("path", "value", "said"), WRONG)
def test_a_wrong_value_is_named_by_file_and_path(
    tmp_path: Path, path: str, value: Any, said: str
) -> None:
    raw = real_config()
    *parents, key = path.split(".")
    section = raw
    for parent in parents:
        section = section[parent]
    section[key] = value
    with pytest.raises(CheckpointError) as raised:
        read_config(write(tmp_path, raw))
    message = str(raised.value)
    assert str(tmp_path / "config.json") in message
    assert f"{path}" in message
    assert said in message


@pytest.mark.parametrize(
    ("generation", "key"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"eos_token_id": -4}, "eos_token_id"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"do_sample": 1}, "do_sample"),
    ],
)
def test_wrong_generation_defaults(tmp_path: Path, generation: Any, key: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key}: expected"):
        read_config(write(tmp_path, real_config(), generation))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "nul", '{"a": "\ud800"}', "[" * 100_000, "9" * 5000]
)
def test_a_file_that_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_config(tmp_path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        read_config(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        read_config(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="no such folder"):
        read_config(tmp_path / "file")
