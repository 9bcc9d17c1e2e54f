"""Checkpoints side by side: figures against whole networks' logits, and errors that are known."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from model.convert.awq_groups import norm_groups
from model.errors import CheckpointError
from model.loading import load_model
from model.quality.compare import agreement, compare
from model.quality.divergence import Divergence, log_softmax
from model.quality.streaming import StreamedCheckpoint, open_checkpoint
from model.random_checkpoint import write_random_checkpoint

RANDOM = np.random.default_rng(3)
WINDOWS = [RANDOM.integers(0, 2000, 24).tolist(), RANDOM.integers(0, 2000, 7).tolist()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for format in ("mlx-bf16", "mlx-ud-mxfp8", "mlx-mxfp4"):
        write_random_checkpoint(folder / format, layers=4, format=format)
    return folder


def opened(folder: Path, format: str) -> StreamedCheckpoint:
    return open_checkpoint(str(folder / format))


def changed(folder: Path, name: str, factors: dict[str, mx.array]) -> StreamedCheckpoint:
    """A copy of the bf16 checkpoint with some tensors multiplied."""
    source, target = folder / "mlx-bf16", folder / name
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    arrays = mx.load(str(source / "model.safetensors"))
    assert isinstance(arrays, dict)
    for tensor, factor in factors.items():
        arrays[tensor] = (arrays[tensor] * factor).astype(mx.float32)
    mx.save_safetensors(str(target / "model.safetensors"), arrays, {"format": "mlx"})
    return open_checkpoint(str(target))


def test_a_checkpoint_is_itself(folder: Path) -> None:
    (same,) = compare(opened(folder, "mlx-bf16"), [opened(folder, "mlx-bf16")], WINDOWS)
    figures = same.to_json()
    assert figures["kl_max"] < 1e-9
    assert (figures["top1"], figures["router_agreement"], figures["weight_error"]) == (1, 1, 0)
    assert figures["perplexity"] == figures["reference_perplexity"]
    assert figures["bits_per_weight"] == pytest.approx(16, rel=0.01)
    assert len(figures["router_agreement_by_layer"]) == 4
    assert all(error["output_error"] in (0, None) for error in figures["worst_tensors"])


def test_figures_are_those_of_the_whole_networks(folder: Path) -> None:
    formats = ("mlx-ud-mxfp8", "mlx-mxfp4")
    done: list[tuple[int, int]] = []
    compared = compare(
        opened(folder, "mlx-bf16"),
        [opened(folder, format) for format in formats],
        WINDOWS,
        progress=lambda *layers: done.append(layers),
    )
    assert done == [(n, 4) for n in range(1, 5)]
    exact = load_model(folder / "mlx-bf16", dequantize=True)
    for format, found in zip(formats, compared, strict=True):
        model = load_model(folder / format, dequantize=True)
        expected = Divergence()
        for window in WINDOWS:
            p, q = (log_softmax(np.array(m.logits(window))[:-1]) for m in (exact, model))
            expected.add(p, q, np.array(window[1:]))
        for name, value in expected.figures().items():
            assert found.to_json()[name] == pytest.approx(value, rel=2e-3), name
    mild, coarse = (each.to_json() for each in compared)
    assert 0 < mild["kl_mean"] < coarse["kl_mean"] / 4
    assert mild["router_agreement"] > coarse["router_agreement"]
    worst = coarse["worst_tensors"][0]
    assert worst["stored"] == "mxfp4"
    assert 0.08 < worst["weight_error"] < 0.2
    curve = [y for _, y in compared[1].kl_curve()]
    assert curve == sorted(curve)


def test_only_what_counts_is_compared(folder: Path) -> None:
    counted = [[False] * len(window) for window in WINDOWS]
    counted[0][3] = counted[1][5] = counted[1][6] = True
    pair = opened(folder, "mlx-bf16"), [opened(folder, "mlx-mxfp4")]
    (found,) = compare(*pair, WINDOWS, counted=counted)
    (everywhere,) = compare(*pair, WINDOWS)
    kl, all_kl = (np.concatenate(each.divergence.kl) for each in (found, everywhere))
    first = len(WINDOWS[0]) - 1
    np.testing.assert_allclose(kl, all_kl[[2, first + 4, first + 5]], rtol=1e-3)


def test_errors_of_a_known_size(folder: Path) -> None:
    name = "language_model.model.layers.1.mlp.switch_mlp.down_proj.weight"
    other = changed(folder, "known", {name: mx.array(1.01)})
    (found,) = compare(opened(folder, "mlx-bf16"), [other], WINDOWS)
    worst, second = found.worst()[:2]
    assert worst.name == name.removeprefix("language_model.")
    assert worst.weight_error == pytest.approx(0.01, rel=1e-3)
    assert worst.output_error == pytest.approx(0.01, rel=1e-3)
    assert (second.weight_error, second.output_error) == (0, 0)


def test_what_was_scaled_with_its_norm_has_no_error(folder: Path) -> None:
    reference = opened(folder, "mlx-bf16")
    scale = mx.array(RANDOM.choice([0.5, 1, 2, 8], reference.config.hidden_size))
    group = norm_groups(reference.config)[3]
    factors = {f"language_model.{m}.weight": scale for m in group.consumers}
    factors[f"language_model.{group.norm}"] = 1 / scale
    (found,) = compare(reference, [changed(folder, "scaled", factors)], WINDOWS)
    figures = found.to_json()
    assert figures["kl_max"] < 1e-6
    assert figures["weight_error"] < 1e-6


def test_agreement_counts_common_experts() -> None:
    reference = np.array([[3, 1], [0, 2]], np.uint32)
    assert agreement(reference, np.array([[1, 3], [2, 5]], np.uint32)) == [1, 0.5]


def test_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, layers=4, experts=8, format="mlx-bf16")
    with pytest.raises(CheckpointError, match=r"num_experts: expected 16, as .* has, found 8"):
        compare(opened(folder, "mlx-bf16"), [open_checkpoint(str(tmp_path))], WINDOWS)
