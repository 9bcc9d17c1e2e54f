"""A conversion with an imatrix: weights of errors, AWQ, and that both survive a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from model.convert.imatrix import Entry, Imatrix, write_imatrix
from model.convert.imatrix_names import inputs_of
from model.convert.job import Job
from model.convert.journal import RECORD
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.source import open_source
from model.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original; skewed.gguf, in which a few inputs of every matrix matter most."""
    made = tmp_path_factory.mktemp("imatrix")
    write_random_checkpoint(made / "original", layers=4, format="original")
    config = open_source(made / "original").config
    random = np.random.default_rng(4)
    entries: dict[str, Entry] = {}
    shared: dict[int, Any] = {}
    for module, (matrices, inputs) in inputs_of(config).items():
        # What reads the same norm has the same inputs.
        drawn = shared.setdefault(inputs, np.exp2(random.normal(0, 4, inputs)).astype(np.float32))
        sums = np.repeat(drawn[None], matrices, axis=0)
        entries[module] = Entry(sums, np.ones(matrices, np.float32))
    write_imatrix(made / "skewed.gguf", Imatrix(entries), config)
    return made


def job(folder: Path, target: Path, awq: str, recipe: str = "mxfp4", imatrix: bool = True) -> Job:
    plan = plan_conversion(open_source(folder / "original"), RECIPES[recipe])
    return Job(plan, target, folder / "skewed.gguf" if imatrix else None, awq, "test")


def weights(folder: Path) -> Mapping[str, mx.array]:
    found = mx.load(str(folder / "model.safetensors"))
    assert isinstance(found, dict)
    return found


def test_an_imatrix_changes_codes_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    job(folder, tmp_path / "with", "off").run(None)
    job(folder, tmp_path / "without", "off", imatrix=False).run(None)
    a, b = weights(tmp_path / "with"), weights(tmp_path / "without")
    differing = {name for name in a if not mx.array_equal(a[name], b[name])}
    scales = "language_model.model.layers.0.mlp.switch_mlp.up_proj.scales"
    assert scales in differing
    assert all(f"{name.rsplit('.', 1)[0]}.scales" in a for name in differing)
    assert json.loads((tmp_path / "with" / RECORD).read_text())["imatrix"]


def test_awq_scales_norms_with_their_consumers_and_says_so(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    record = job(folder, tmp_path, "auto").run(None, say=said.append)
    applied = [line for line in record["awq"]["report"] if line["applied"]]
    assert applied
    assert any(line.startswith(f"AWQ: {len(applied)} of ") for line in said)
    plain = open_source(folder / "original")
    stored = weights(tmp_path)
    for line in record["awq"]["report"]:
        norm = stored[f"language_model.{line['norm']}"].astype(mx.float32)
        original = plain[line["norm"]].astype(mx.bfloat16).astype(mx.float32)
        assert mx.array_equal(norm, original).item() is not line["applied"], line["norm"]
        assert (line["norm"] in record["awq"]["scaled"]) is line["applied"]


def test_what_awq_decided_is_kept_over_a_kill(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(folder, tmp_path / "whole", "auto").run(None)

    def stop(done: int, total: int) -> None:
        if done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(folder, tmp_path / "killed", "auto").run(stop)

    def never(*args: Any) -> Any:
        raise AssertionError("decided anew")

    monkeypatch.setattr("model.convert.job.plan_prescaling", never)
    job(folder, tmp_path / "killed", "auto").run(None)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / file.name).read_bytes() == file.read_bytes()


def test_another_imatrix_is_another_conversion(folder: Path, tmp_path: Path) -> None:
    one, other = job(folder, tmp_path, "auto"), job(folder, tmp_path, "auto", imatrix=False)
    assert one.identity() != other.identity()
    assert one.identity() != job(folder, tmp_path, "off").identity()
