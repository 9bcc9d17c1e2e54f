"""A network one layer at a time computes what the whole one does, and shows what multiplies."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from model.loading import DEMO_FOLDER, load_model
from model.quality.streaming import StreamedCheckpoint, open_checkpoint
from model.random_checkpoint import write_random_checkpoint

IDS = np.random.default_rng(0).integers(0, 2000, 40).tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original layout, norms minus one and fused experts among it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_random_checkpoint(folder, layers=4, format="original", shards=3, with_mtp=True)
    return folder


def streamed_logits(checkpoint: StreamedCheckpoint, ids: list[int]) -> np.ndarray:
    (x,) = checkpoint.embedded([ids])
    for index in range(checkpoint.config.num_hidden_layers):
        x, _ = checkpoint.layer(index)(x)
    return np.array(checkpoint.head().logits(x[0]))


@pytest.mark.parametrize("which", ["demo", "tiny"])
def test_logits_are_those_of_the_whole_network(which: str, tiny: Path) -> None:
    folder = DEMO_FOLDER if which == "demo" else tiny
    model = load_model(folder, dequantize=True)
    assert model.network.dtype == mx.float32
    whole = np.array(model.logits(IDS))
    streamed = streamed_logits(open_checkpoint(str(folder)), IDS)
    np.testing.assert_allclose(streamed, whole, atol=1e-4)


def test_another_width_of_the_shared_expert(tmp_path: Path) -> None:
    from model.random_values import GEOMETRIES

    text = GEOMETRIES["tiny"] | {"shared_expert_intermediate_size": 96, "num_hidden_layers": 2}
    write_random_checkpoint(tmp_path, geometry=text, format="mlx-bf16", tied=True)
    whole = np.array(load_model(tmp_path, dequantize=True).logits(IDS))
    streamed = streamed_logits(open_checkpoint(str(tmp_path)), IDS)
    np.testing.assert_allclose(streamed, whole, atol=1e-4)


def test_what_is_shown_makes_the_layer_s_output() -> None:
    """Each branch is computed anew from the inputs that were shown."""
    checkpoint = open_checkpoint(str(DEMO_FOLDER))
    (x,) = checkpoint.embedded([IDS])
    shown: dict[tuple[str, int | None], np.ndarray] = {}

    def see(modules: tuple[str, ...], x: mx.array, expert: int | None) -> None:
        for module in modules:
            shown[module, expert] = np.array(x)

    path = "model.layers.0"
    out, chosen = checkpoint.layer(0)(x, see)

    def weight(name: str) -> np.ndarray:
        return np.array(checkpoint.tensor(f"{path}.{name}.weight"))

    normed = np.array(mx.fast.rms_norm(x, mx.array(weight("input_layernorm")), 1e-6))[0]
    for part in ("qkv", "z", "a", "b"):
        np.testing.assert_array_equal(shown[f"{path}.linear_attn.in_proj_{part}", None], normed)
    mixed = shown[f"{path}.linear_attn.out_proj", None] @ weight("linear_attn.out_proj").T

    logits = shown[f"{path}.mlp.gate", None] @ weight("mlp.gate").T
    top = np.take_along_axis(logits, chosen.astype(np.int64), -1)
    assert (np.sort(logits)[:, -chosen.shape[1]] <= top.min(axis=-1) + 1e-6).all()
    shares = np.exp(top - top.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    down = weight("mlp.switch_mlp.down_proj")
    routed = np.zeros_like(normed)
    for expert in range(checkpoint.config.num_experts):
        tokens, place = np.nonzero(chosen == expert)
        if tokens.size:
            given = shown[f"{path}.mlp.switch_mlp.down_proj", expert]
            routed[tokens] += shares[tokens, place][:, None] * (given @ down[expert].T)
            gate = shown[f"{path}.mlp.switch_mlp.gate_proj", expert]
            np.testing.assert_array_equal(gate, shown[f"{path}.mlp.gate", None][tokens])
    of_shared = shown[f"{path}.mlp.shared_expert_gate", None] @ weight("mlp.shared_expert_gate").T
    given = shown[f"{path}.mlp.shared_expert.down_proj", None]
    shared = given @ weight("mlp.shared_expert.down_proj").T / (1 + np.exp(-of_shared))
    np.testing.assert_allclose(
        np.array(out)[0], np.array(x)[0] + mixed + routed + shared, atol=2e-5
    )


def test_showing_ends_with_the_call() -> None:
    checkpoint = open_checkpoint(str(DEMO_FOLDER))
    (x,) = checkpoint.embedded([IDS])
    layer = checkpoint.layer(1)
    seen: list[str] = []
    layer(x, lambda modules, x, expert: seen.extend(modules))
    count = len(seen)
    layer(x)
    assert len(seen) == count > 0


def test_bits_per_weight_count_scales() -> None:
    checkpoint = open_checkpoint(str(DEMO_FOLDER))
    assert checkpoint.stored_bytes == pytest.approx(
        (DEMO_FOLDER / "model.safetensors").stat().st_size, rel=0.01
    )
    assert 8.25 < checkpoint.bits_per_weight < 9.5
