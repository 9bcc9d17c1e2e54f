"""An importance matrix: its names and order, what the gguf package says of it, what is refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from model.config import ModelConfig, read_config
from model.convert.imatrix import Entry, Imatrix, read_imatrix, read_importance, write_imatrix
from model.convert.imatrix_gguf import read_gguf, write_gguf
from model.convert.imatrix_names import from_gguf_order, gguf_name, inputs_of, module_of
from model.errors import CheckpointError
from model.loading import DEMO_FOLDER

CONFIG = read_config(DEMO_FOLDER)
OUT_PROJ = "model.layers.0.linear_attn.out_proj"


def made(config: ModelConfig = CONFIG) -> Imatrix:
    """One with a value of its own at every place."""
    random = np.random.default_rng(1)
    entries = {}
    for module, (matrices, inputs) in inputs_of(config).items():
        counts = random.integers(1, 50, matrices).astype(np.float32)
        entries[module] = Entry(random.random((matrices, inputs), np.float32), counts)
    return Imatrix(entries, ("a.txt", "b.txt"), 3, 512)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], kind: str = "imatrix") -> Path:
    write_gguf(path, {"general.type": kind}, tensors)
    return path


def test_names_both_ways() -> None:
    modules = list(inputs_of(CONFIG))
    names = [gguf_name(module) for module in modules]
    assert len(set(names)) == len(names)
    assert [module_of(name or "") for name in names] == modules
    assert gguf_name("model.layers.7.linear_attn.in_proj_z") == "blk.7.attn_gate.weight"
    assert gguf_name("model.layers.7.self_attn.o_proj") == "blk.7.attn_output.weight"
    assert gguf_name("model.layers.7.mlp.switch_mlp.up_proj") == "blk.7.ffn_up_exps.weight"
    assert gguf_name("lm_head") == "output.weight"
    for name in ("blk.0.nextn.eh_proj.weight", "token_embd.weight", "blk.x.attn_q.weight", ""):
        assert module_of(name) is None


def test_value_heads_are_reordered_in_the_inputs_of_out_proj_only() -> None:
    keys, size = CONFIG.linear_num_key_heads, CONFIG.linear_value_head_dim
    heads = CONFIG.linear_num_value_heads
    assert (keys, heads) == (2, 4)
    tiled = np.repeat(np.arange(heads, dtype=np.float32), size)  # the head at each place there
    grouped = from_gguf_order(OUT_PROJ, tiled, CONFIG)
    # There 0 and 2 belong to key head 0, here they are neighbours.
    assert grouped[::size].tolist() == [0, 2, 1, 3]
    other = "model.layers.0.linear_attn.in_proj_qkv"
    assert from_gguf_order(other, tiled, CONFIG).tolist() == tiled.tolist()


def test_the_gguf_package_reads_it_back(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrix = made()
    write_imatrix(path, imatrix, CONFIG)
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix"
    assert fields["imatrix.datasets"] == ["a.txt", "b.txt"]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (3, 512)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert list(tensors) == sorted(tensors)
    module = "model.layers.1.mlp.switch_mlp.down_proj"
    sums = tensors["blk.1.ffn_down_exps.weight.in_sum2"]
    assert sums.shape.tolist() == [CONFIG.moe_intermediate_size, CONFIG.num_experts]
    np.testing.assert_array_equal(sums.data, imatrix.entries[module].sums)
    counts = tensors["blk.1.ffn_down_exps.weight.counts"]
    assert counts.shape.tolist() == [1, CONFIG.num_experts]
    np.testing.assert_array_equal(counts.data[:, 0], imatrix.entries[module].counts)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrix = made()
    write_imatrix(path, imatrix, CONFIG)
    found = read_imatrix(path, CONFIG)
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt", "b.txt"), 3, 512)
    assert found.entries.keys() == imatrix.entries.keys()
    for module, entry in imatrix.entries.items():
        np.testing.assert_array_equal(found.entries[module].sums, entry.sums)
        np.testing.assert_array_equal(found.entries[module].counts, entry.counts)
    assert found.missing(CONFIG) == []


def test_importance_is_the_mean_square_of_each_input(tmp_path: Path) -> None:
    dense = np.array([[8.0, 2.0] * 96], np.float32)
    experts = CONFIG.num_experts
    routed = np.ones((experts, CONFIG.hidden_size), np.float32)
    routed[1] *= 6
    counts = np.zeros((experts, 1), np.float32)
    counts[0], counts[1] = 1, 3
    routed[2:] = 0  # nobody went there
    path = write_tensors(
        tmp_path / "imatrix.gguf",
        {
            "blk.0.attn_qkv.weight.in_sum2": dense,
            "blk.0.attn_qkv.weight.counts": np.array([[4.0]], np.float32),
            "blk.0.ffn_up_exps.weight.in_sum2": routed,
            "blk.0.ffn_up_exps.weight.counts": counts,
            "blk.0.ffn_up_shexp.weight.in_sum2": dense,
            "blk.0.ffn_up_shexp.weight.counts": np.array([[0.0]], np.float32),
        },
    )
    found = read_importance(path, CONFIG)
    assert found["model.layers.0.linear_attn.in_proj_qkv"][:2].tolist() == [2.0, 0.5]
    up = found["model.layers.0.mlp.switch_mlp.up_proj"]
    assert up.shape == routed.shape
    # Experts that saw nothing are given the mean over all tokens of the others: 7 / 4.
    assert up[:, 0].tolist() == [1.0, 2.0] + [1.75] * (experts - 2)
    assert "model.layers.0.mlp.shared_expert.up_proj" not in found
    imatrix = read_imatrix(path, CONFIG)
    assert imatrix.unseen_experts()["model.layers.0.mlp.switch_mlp.up_proj"] == experts - 2
    missing = imatrix.missing(CONFIG)
    assert "model.layers.0.mlp.shared_expert.up_proj" in missing
    assert "model.layers.0.linear_attn.in_proj_qkv" not in missing
    assert "lm_head" not in missing


def test_names_of_other_matrices_are_told(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, made(), CONFIG)
    metadata, tensors = read_gguf(path)
    one = np.ones((1, 1), np.float32)
    extra = {"blk.40.nextn.eh_proj.weight.in_sum2": one, "blk.40.nextn.eh_proj.weight.counts": one}
    write_gguf(path, metadata, tensors | extra)
    assert read_imatrix(path, CONFIG).unknown == ("blk.40.nextn.eh_proj.weight",)


GOOD = np.ones((1, CONFIG.hidden_size), np.float32)
ONE = np.ones((1, 1), np.float32)
QKV = "blk.0.attn_qkv.weight"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{QKV}.in_sum2": GOOD}, "attn_qkv.weight.counts: expected .*found nothing"),
        ({f"{QKV}.in_sum2": GOOD[:, 1:], f"{QKV}.counts": ONE}, r"expected \[1, 192\], found"),
        ({f"{QKV}.in_sum2": GOOD, f"{QKV}.counts": np.ones((2, 1), np.float32)}, "counts: expe"),
        ({f"{QKV}.in_sum2": GOOD * np.nan, f"{QKV}.counts": ONE}, "expected finite values"),
        ({f"{QKV}.in_sum2": -GOOD, f"{QKV}.counts": ONE}, "expected finite values"),
        ({"blk.0.ffn_up.weight.in_sum2": GOOD, "blk.0.ffn_up.weight.counts": ONE}, "another kind"),
        ({"blk.0.attn_qkv.weight": GOOD}, r"expected tensors named …\.in_sum2"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], message: str
) -> None:
    path = write_tensors(tmp_path / "imatrix.gguf", tensors)
    with pytest.raises(CheckpointError, match=message):
        read_imatrix(path, CONFIG)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "adapter.gguf", {f"{QKV}.in_sum2": GOOD}, kind="adapter")
    with pytest.raises(CheckpointError, match=r"general\.type: expected imatrix, found 'adapter'"):
        read_imatrix(path, CONFIG)


def test_a_module_without_a_name_cannot_be_written(tmp_path: Path) -> None:
    entries = {"model.embed_tokens": Entry(GOOD, ONE[:, 0])}
    with pytest.raises(ValueError, match="embed_tokens"):
        write_imatrix(tmp_path / "imatrix.gguf", Imatrix(entries), CONFIG)
    assert not list(tmp_path.iterdir())
