"""`mxserve inspect`: sizes that add up, and findings that find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from model.convert.convert import Influence, convert
from model.convert.findings import values_finding
from model.convert.grids import e4m3
from model.convert.inspect import inspect
from model.convert.job import Job
from model.convert.journal import Journal
from model.convert.plan import plan_conversion
from model.convert.prescale import Scaling
from model.convert.quantize import quantize
from model.convert.recipe import MXFP8, RECIPES
from model.convert.rounding import nearest
from model.convert.source import data_offsets, open_source
from model.random_checkpoint import write_random_checkpoint
from model.safetensors_files import stored_tensors
from server.cli import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original, and `made` of it."""
    folder = tmp_path_factory.mktemp("inspect")
    write_random_checkpoint(
        folder / "original", layers=4, format="original", with_vision=True, with_mtp=True
    )
    plan = plan_conversion(open_source(folder / "original"), RECIPES["ud-mxfp8"])
    Job(plan, folder / "made", None, "auto", "test").run(None)
    return folder


def finding(folder: Path, about: str, reference: Path | None = None) -> tuple[str, str]:
    found = inspect(folder, reference=reference, everything=True).findings
    one = next(each for each in found if each.about == about)
    return one.state, one.text


def test_sizes_add_up_to_the_files_and_to_the_source(folders: Path) -> None:
    for name in ("original", "made"):
        found = inspect(folders / name)
        assert found.problem is None
        data = sum(tensor.nbytes for tensor in stored_tensors(folders / name).values())
        assert sum(part.nbytes for part in found.parts) == data
    original, made = (inspect(folders / name).parts for name in ("original", "made"))
    assert {p.name: p.parameters for p in original} == {p.name: p.parameters for p in made}
    experts = next(part for part in made if part.name == "experts")
    assert (experts.bits, experts.formats) == (8.25, {"mxfp8": 12})
    assert all(part.bits == 16 for part in original)


def test_the_command_prints_both_forms(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folders / "made")]) == 0
    text = capsys.readouterr().out
    assert "4 layers (3 linear, 1 full attention)" in text
    assert "headers and index agree" in text
    assert main(["inspect", str(folders / "made"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["loads"] is True
    assert report["conversion"]["recipe"] == "ud-mxfp8"
    assert report["memory"]["needed_bytes"] > 0
    read = report["bytes_per_token"]
    assert read["weights"] == pytest.approx(sum(read["by_part"].values()), abs=10)
    assert main(["inspect", "demo"]) == 0


def round_rule(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Codes [n, 32] by exponents that are rounded to nearest, as older quantizers have them."""
    exponents = np.rint(np.log2(np.abs(values).max(axis=1) / 448))
    scaled = np.abs(values / np.exp2(exponents)[:, None])
    return np.abs(scaled[..., None] - e4m3().values).argmin(axis=-1).astype(np.uint8)


def test_saturating_exponents_are_told_from_others() -> None:
    random = np.random.default_rng(2)
    values = random.standard_normal((2_000, 32)) * np.exp2(random.random((2_000, 1)))
    values = values.astype(np.float32)
    ours, _ = quantize(nearest(values), MXFP8)
    codes = np.ascontiguousarray(ours["weight"]).view(np.uint8).reshape(-1, 32)
    good = values_finding([("a", codes)])
    assert good.state == "good"
    assert 0.05 < good.figures["share_at_448"] < 0.2
    bad = values_finding([("a", round_rule(values))])
    assert bad.state == "bad"
    assert 0.35 < bad.figures["share_at_448"] < 0.65
    assert "rounded to nearest" in bad.text


def test_nan_codes_are_found(folders: Path, tmp_path: Path) -> None:
    plan = plan_conversion(open_source(folders / "original"), RECIPES["mxfp8"])
    Job(plan, tmp_path / "x", None, "auto", "test").run(None)
    name = "language_model.model.layers.2.mlp.switch_mlp.up_proj.weight"
    file = stored_tensors(tmp_path / "x")[name].file
    with file.open("r+b") as opened:
        opened.seek(data_offsets(file)[name] + 77)
        opened.write(b"\xff")
    assert finding(tmp_path / "x", "exponents") == ("bad", "1 groups hold a NaN")


def test_changed_bytes_are_found_by_the_records_digests(folders: Path, tmp_path: Path) -> None:
    plan = plan_conversion(open_source(folders / "original"), RECIPES["ud-mxfp8"])
    Job(plan, tmp_path / "x", None, "auto", "test").run(None)
    assert finding(tmp_path / "x", "bytes") == ("good", "all 2 files are what was written")
    with (tmp_path / "x" / "mtp.safetensors").open("r+b") as file:
        file.seek(-100, 2)
        file.write(b"\x01")
    assert finding(tmp_path / "x", "bytes") == ("bad", "not what was written: mtp.safetensors")
    assert finding(folders / "original", "bytes")[0] == "unknown"
    (unread,) = (f for f in inspect(tmp_path / "x").findings if f.about == "bytes")
    assert (unread.state, "--all" in unread.text) == ("unknown", True)


def test_awq_by_record_and_by_the_originals_norms(folders: Path, tmp_path: Path) -> None:
    original = folders / "original"
    assert finding(folders / "made", "AWQ")[0] == "none"
    assert finding(folders / "made", "AWQ", original) == (
        "none",
        "not applied: all 8 norms are the original's",
    )
    assert finding(original, "AWQ")[0] == "unknown"
    source = open_source(original)
    norm = "model.layers.1.input_layernorm.weight"
    scaling = {norm: Scaling(outputs=np.full(128, 0.5, np.float32))}
    plan = plan_conversion(source, RECIPES["ud-mxfp8"])
    journal = Journal(tmp_path, {})
    convert(plan, tmp_path, journal, Influence(scaling), {"awq": {"scaled": [norm]}})
    assert finding(tmp_path, "AWQ") == ("good", "applied to 1 tensors, by its record")
    assert finding(tmp_path, "AWQ", original) == (
        "good",
        "applied: 1 of 8 norms are not the original's",
    )


def test_mtp_is_there_or_not(folders: Path, tmp_path: Path) -> None:
    state, text = finding(folders / "made", "MTP")
    assert (state, "19 tensors in original layout, mtp.safetensors" in text) == ("good", True)
    plan = plan_conversion(open_source(folders / "original"), RECIPES["bf16"], drop=("mtp",))
    Job(plan, tmp_path, None, "auto", "test").run(None)
    assert finding(tmp_path, "MTP")[0] == "none"


def test_what_does_not_load_is_said(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_conversion(open_source(folders / "original"), RECIPES["bf16"], shard_bytes=10**6)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Job(plan, tmp_path, None, "auto", "test").run(stop)
    assert main(["inspect", str(tmp_path)]) == 1
    assert "an unfinished conversion" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "no/such")]) == 1
    assert "mxserve inspect: " in capsys.readouterr().err
