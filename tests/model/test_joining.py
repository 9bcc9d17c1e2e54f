"""Joined matrices: what is joined in which format, and that they compute what their parts do."""

from pathlib import Path

import mlx.core as mx
import pytest

from model.checkpoint import Weights, load_weights
from model.config import read_config
from model.convert.recipe import AFFINE8, MXFP8, Recipe
from model.joining import join_arrays, joins
from model.network import Network
from model.random_checkpoint import write_random_checkpoint
from model.random_values import GEOMETRIES
from model.state import SequenceState
from model.steps import Steps
from model.storage_formats import FORMATS, StorageFormat

ON_GPU = mx.default_device() != mx.Device(mx.cpu)
PROMPT, DECODED = [5 + 7 * i % 400 for i in range(21)], 4
MIXER_JOINS = {"self_attn.qkv_proj", "linear_attn.in_proj_qkvz", "linear_attn.in_proj_ab"}
ALL_JOINS = MIXER_JOINS | {"mlp.gates", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}


def mixed(otherwise: tuple[str, ...]) -> StorageFormat:
    """Stores the modules whose paths end in one of `otherwise` as MXFP8, the others as affine."""
    rules = tuple((ending, MXFP8) for ending in otherwise)
    return StorageFormat("mixed", Recipe("mixed", "", rules, rest=AFFINE8, header=AFFINE8))


# What is stored otherwise, and what is joined then.
MIXED = {
    ("k_proj", "in_proj_z", "in_proj_b"): ALL_JOINS - MIXER_JOINS,
    ("mlp.gate",): ALL_JOINS - {"mlp.gates"},
    ("switch_mlp.up_proj",): MIXER_JOINS | {"mlp.gates", "mlp.shared_expert.gate_up_proj"},
    ("shared_expert.down_proj",): MIXER_JOINS
    | {"mlp.gates", "mlp.switch_mlp.gate_up_proj", "mlp.shared_expert.gate_up_proj"},
}


def written(folder: Path, format: str, **text: int) -> Path:
    write_random_checkpoint(
        folder, geometry=GEOMETRIES["tiny"] | text, layers=4, format=format, seed=3
    )
    return folder


def load(folder: Path, *, dequantize: bool) -> Weights:
    return load_weights(
        folder, read_config(folder), compute_dtype=mx.float32, dequantize=dequantize
    )


def joined_names(weights: Weights) -> set[str]:
    """Names within a layer of the joins among the arrays."""
    names = {name.removesuffix(".weight").partition(".layers.")[2] for name in weights.arrays}
    within = {name.partition(".")[2] for name in names}
    possible = ALL_JOINS | {"mlp.switch_mlp.gate_up_proj", "mlp.shared_expert.gate_up_proj"}
    return within & possible


def logits(folder: Path, weights: Weights) -> mx.array:
    """Of a prefilled prompt and of tokens decoded after it."""
    config = read_config(folder)
    network = Network(config, weights, mx.float32, on_gpu=ON_GPU)
    state = SequenceState(config, mx.float32)
    hidden = Steps(network, on_gpu=ON_GPU).prefill(state, PROMPT)
    rows = [network.logits(hidden)[0]]
    layers, length = state.layers, mx.array([state.body_length], mx.int32)
    for tail in range(DECODED):
        hidden, layers = network.step(
            mx.array([tail + 9]), layers, length, mx.array(tail, mx.int32)
        )
        rows.append(network.logits(hidden)[0])
    return mx.concatenate(rows)


def assert_same_as_apart(
    folder: Path, joined: Weights, monkeypatch: pytest.MonkeyPatch, *, dequantize: bool
) -> None:
    monkeypatch.setattr("model.checkpoint.joins", lambda config, spec_of: ())
    apart = load(folder, dequantize=dequantize)
    assert not joined_names(apart)
    a, b = logits(folder, joined), logits(folder, apart)
    tolerance = 5e-2 if ON_GPU else 1e-4
    assert float(mx.abs(a - b).max()) < tolerance


@pytest.mark.parametrize("dequantize", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_joined_matrices_compute_what_their_parts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, dequantize: bool
) -> None:
    folder = written(tmp_path, format)
    joined = load(folder, dequantize=dequantize)
    assert joined_names(joined) == ALL_JOINS
    assert_same_as_apart(folder, joined, monkeypatch, dequantize=dequantize)


@pytest.mark.parametrize("otherwise", MIXED)
def test_what_is_stored_otherwise_stays_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, otherwise: tuple[str, ...]
) -> None:
    monkeypatch.setitem(FORMATS, "mixed", mixed(otherwise))
    folder = written(tmp_path, "mixed")
    joined = load(folder, dequantize=False)
    assert joined_names(joined) == MIXED[otherwise]
    assert_same_as_apart(folder, joined, monkeypatch, dequantize=False)


def test_a_shared_expert_of_another_width_stays_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path, "mlx-ud-mxfp8", shared_expert_intermediate_size=128)
    joined = load(folder, dequantize=False)
    assert "mlp.experts.gate_up_proj" not in joined_names(joined)
    assert_same_as_apart(folder, joined, monkeypatch, dequantize=False)


def test_nothing_is_kept_beside_what_it_was_joined_to(tmp_path: Path) -> None:
    folder = written(tmp_path, "mlx-ud-mxfp8")
    weights = load(folder, dequantize=False)
    config = read_config(folder)
    members = {m for join in joins(config, lambda _: None) for m in join.members()}
    assert not members & {name.rpartition(".")[0] for name in weights.arrays}
    assert not members & weights.quantized.keys()
    experts, layer = config.num_experts, "model.layers.0.mlp"
    assert weights.arrays[f"{layer}.gates.weight"].shape[0] == experts + 1
    assert weights.arrays[f"{layer}.experts.gate_up_proj.weight"].shape[0] == experts + 1


@pytest.mark.parametrize("format", ["mlx-ud-mxfp8", "mlx-affine8", "mlx-bf16"])
def test_a_network_holds_no_copy_of_its_weights(tmp_path: Path, format: str) -> None:
    """Transposed matrices and the shared expert are views."""
    folder = written(tmp_path, format)
    weights = load(folder, dequantize=False)
    before = mx.get_active_memory()
    network = Network(read_config(folder), weights, mx.float32, on_gpu=False)
    size = sum(array.nbytes for array in weights.arrays.values())
    assert network.layers[0].experts.joined
    # Small vectors of the DeltaNet layers and the taps of their convolutions are made anew.
    assert mx.get_active_memory() - before < 0.01 * size


def test_the_layout_of_a_join_is_groups_of_rows() -> None:
    def rows(*shape: int, start: int) -> mx.array:
        return mx.arange(start, start + shape[-2])[:, None] + mx.zeros(shape, mx.int32)

    routed = [rows(2, 3, 5, start=0), rows(2, 3, 5, start=10)]
    shared = [rows(3, 5, start=20), rows(3, 5, start=30)]
    joined = join_arrays([routed, shared])
    assert joined.shape == (3, 6, 5)
    assert joined[0, :, 0].tolist() == joined[1, :, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert joined[2, :, 0].tolist() == [20, 21, 22, 30, 31, 32]
    assert join_arrays([[shared[0]]]).shape == (3, 5)
