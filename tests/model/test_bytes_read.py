"""Bytes per decoded token, against sums done by hand from the model card's table."""

import json

import pytest

from model.bytes_read import guess_bytes, kv_bytes, state_bytes, total_bytes, weight_bytes
from model.geometry import named, of_checkpoint, of_text
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES
from model.safetensors_files import stored_tensors

MXFP8, AFFINE8, BF16 = 1 + 1 / 32, 1 + 4 / 64, 2  # bytes per weight


@pytest.fixture(scope="module")
def real():
    return named("qwen3.6-35b-a3b")


def test_the_real_file_by_part(real):
    parts = weight_bytes(real)
    by_hand = {
        "head": 248_320 * 2048 * AFFINE8,
        "experts": 40 * 8 * 3 * 512 * 2048 * MXFP8,
        "shared experts": 40 * 3 * 512 * 2048 * MXFP8,
        "routers": 40 * 257 * 2048 * AFFINE8,
        "DeltaNet output": 30 * 2048 * 4096 * BF16,
        "attention output": 10 * 2048 * 4096 * BF16,
        "attention projections": 10 * ((8192 + 512 + 512) * 2048 * MXFP8 + 2 * 256 * BF16),
        "DeltaNet projections": 30
        * (
            (8192 + 4096) * 2048 * MXFP8
            + (2 * 32 * 2048 + 8192 * 4 + 128) * BF16
            + 2 * 32 * 4  # A_log and dt_bias, float32
        ),
        "norms": (2 * 40 + 1) * 2048 * BF16,
        "embedding": 2048 * AFFINE8,
    }
    assert parts == pytest.approx(by_hand)
    assert round(sum(parts.values()) / 1e6) == 3385


@pytest.mark.parametrize(
    ("context", "megabytes"), [(0, 3514), (4096, 3598), (32_768, 4185), (131_072, 6198)]
)
def test_the_real_file_by_context(real, context, megabytes):
    total = total_bytes(weight_bytes(real), state_bytes(real), kv_bytes(real, context))
    assert round(total / 1e6) == megabytes
    assert kv_bytes(real, context) == 20_480 * context


def test_the_recurrent_state_is_read_and_written(real):
    assert state_bytes(real) == 2 * 30 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)


@pytest.mark.parametrize("guesses", [1, 3])
def test_what_guesses_of_the_real_model_add(real, guesses):
    attention = (8192 + 512 + 512) * 2048 + 4096 * 2048 + 2 * 256
    once = 2048 * 4096 + attention + 257 * 2048 + 3 * 512 * 2048 + 5 * 2048
    places = 2 * guesses  # what was accepted, and what is guessed
    expert = 8 * 3 * 512 * 2048
    by_hand = {
        "experts of more tokens": guesses * (40 * expert + 2048 * 1.03125) * MXFP8,
        "MTP head": (guesses * once + places * expert) * BF16,
        "draft head": guesses * (65_536 + 32) * 2048 * AFFINE8,
        "state after each token": guesses * state_bytes(real) / 2,
    }
    found = guess_bytes(real, guesses, 32)
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_guesses_of_a_small_vocabulary_read_the_whole_head():
    tiny = named("tiny")
    head = weight_bytes(tiny)["head"]
    assert guess_bytes(tiny, 2, 32)["draft head"] == pytest.approx(2 * head)


def test_other_formats_read_more_or_less(real):
    def total(storage):
        return sum(weight_bytes(named("qwen3.6-35b-a3b", storage=storage)).values())

    assert total("mlx-affine4") < sum(weight_bytes(real).values()) < total("mlx-bf16")
    as_floats = weight_bytes(real, dequantized=True)
    assert as_floats["experts"] == pytest.approx(weight_bytes(real)["experts"] / MXFP8 * 4)


def test_a_tied_head_reads_the_embedding():
    text = GEOMETRIES["tiny"] | {"tie_word_embeddings": True}
    parts = weight_bytes(of_text("tied", text))
    assert parts["head"] == weight_bytes(of_text("own", GEOMETRIES["tiny"]))["head"] > 0


def test_a_checkpoint_says_for_itself_how_it_is_stored(tmp_path):
    write_random_checkpoint(tmp_path, layers=4, experts=4, format="mlx-ud-mxfp8")
    geometry = of_checkpoint(tmp_path)
    assert geometry.config.num_experts_per_tok == geometry.config.num_experts == 4
    stored = sum(t.nbytes for t in stored_tensors(tmp_path).values())
    rows = geometry.config.vocab_size
    read = weight_bytes(geometry)
    # All experts are read here, so a token reads the file but for the embedding's other rows; A_log
    # and dt_bias are stored as bfloat16 and read as float32.
    halves = 3 * 2 * geometry.config.linear_num_value_heads * 2
    assert sum(read.values()) == pytest.approx(stored + halves - read["embedding"] * (rows - 1))


def test_the_config_that_a_geometry_stands_for_is_read_as_any_other(tmp_path):
    write_random_checkpoint(tmp_path, geometry="tiny")
    config = of_checkpoint(tmp_path).config
    assert named("tiny").config.layer_types == config.layer_types
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["hidden_size"] == 128
    assert named("tiny").config.hidden_size == 128
