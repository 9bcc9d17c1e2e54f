"""An importance matrix made from a text: whole, countable, and what the network's inputs are."""

import mlx.core as mx
import numpy as np
import pytest

from model.convert.imatrix_names import inputs_of
from model.loading import DEMO_FOLDER
from model.quality.moments import check_finite, make_imatrix
from model.quality.streaming import open_checkpoint
from model.quality.text import windows

CHECKPOINT = open_checkpoint(str(DEMO_FOLDER))
WINDOWS = [list(range(100, 130)), list(range(300, 345))]
TOKENS = sum(map(len, WINDOWS))


def test_every_matrix_has_its_sums_and_counts() -> None:
    done: list[tuple[int, int]] = []
    imatrix = make_imatrix(
        CHECKPOINT, WINDOWS, datasets=["x"], progress=lambda *layers: done.append(layers)
    )
    config = CHECKPOINT.config
    assert imatrix.entries.keys() == inputs_of(config).keys()
    assert imatrix.missing(config) == []
    assert (imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size) == (("x",), 2, 45)
    assert done[-1] == (config.num_hidden_layers, config.num_hidden_layers)
    for module, entry in imatrix.entries.items():
        assert np.isfinite(entry.sums).all()
        uses = config.num_experts_per_tok if ".switch_mlp." in module else 1
        assert entry.counts.sum() == TOKENS * uses, module
    # What the router sees, the chosen experts see.
    mlp = "model.layers.2.mlp"
    routed = imatrix.entries[f"{mlp}.switch_mlp.gate_proj"].sums.sum(axis=0)
    router = imatrix.entries[f"{mlp}.gate"].sums[0]
    np.testing.assert_allclose(routed, config.num_experts_per_tok * router, rtol=1e-4)


def test_sums_are_those_of_the_inputs() -> None:
    imatrix = make_imatrix(CHECKPOINT, WINDOWS)
    norm = CHECKPOINT.tensor("model.layers.0.input_layernorm.weight")
    expected = 0
    for x in CHECKPOINT.embedded(WINDOWS):
        expected = expected + (np.array(mx.fast.rms_norm(x, norm, 1e-6))[0] ** 2).sum(axis=0)
    found = imatrix.entries["model.layers.0.linear_attn.in_proj_z"]
    np.testing.assert_allclose(found.sums[0], expected, rtol=1e-5)
    assert found.counts.tolist() == [TOKENS]


def test_what_is_not_finite_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="layer 3"):
        check_finite([mx.zeros(3), mx.array([1.0, mx.inf])], "layer 3")


def test_windows_cut_texts_and_stop() -> None:
    tokenizer = CHECKPOINT.tokenizer()
    ids = tokenizer.encode("one two three four five six seven")
    found = windows(tokenizer, ["one two three four five six seven"], length=3)
    assert [token for window in found for token in window] == ids[: len(ids) - len(ids) % 3 % 2]
    assert {len(window) for window in found[:-1]} == {3}
    twice = windows(tokenizer, ["one two three"] * 2, length=100)
    assert twice[0] == twice[1]
    assert sum(map(len, windows(tokenizer, ["one two three"] * 9, length=4, most=10))) <= 10
    end = "<|im_end|>"
    assert len(windows(tokenizer, [end * 4], parse_special=True)[0]) == 4
    assert len(windows(tokenizer, [end * 4])[0]) > 8
    with pytest.raises(ValueError, match="two tokens or more"):
        windows(tokenizer, ["", "<"])
