"""`mxserve doctor`: its report of this machine, its words for others, its advice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model.kernel_choice import REGIONS
from model.kernels.admission import NO_KERNELS
from model.machine import Machine
from server import cli, doctor
from server.advice import REAL_MODEL, Kernel, LoadedModel, advice
from server.doctor import Report, text
from server.limits import Limits

GIB = 1 << 30
LINUX = Machine(
    system="Linux-6.1-x86_64",
    machine="x86_64",
    python="3.11.7",
    versions={"mlx": "0.32.4"},
    kind="cpu",
    chip="a processor",
    architecture=None,
    compute_dtype="float32",
    memory_total=8 * GIB,
    memory_available=6 * GIB,
    working_set=None,
    blas="OpenBLAS 0.3.21",
    compiler="/usr/bin/g++",
    command_buffers={},
    command_buffers_by="mlx",
)
MAC = replace(
    LINUX,
    system="macOS-26.0-arm64",
    machine="arm64",
    kind="metal",
    chip="Apple M3 Max",
    architecture="applegpu_g15s",
    compute_dtype="bfloat16",
    memory_total=128 * GIB,
    memory_available=96 * GIB,
    working_set=96 * GIB,
    blas="Accelerate",
    compiler=None,
    command_buffers={"MLX_MAX_OPS_PER_BUFFER": "100"},
    command_buffers_by="mxserve",
)
DEMO = LoadedModel("mxserve-demo", True, 4, False, 20 << 20)
REAL = LoadedModel("Qwen3.6-35B-A3B-UD-MXFP8", False, 40, False, REAL_MODEL)
GOOD = Kernel("delta_step", True, "agrees, faster", "rows=8", 3.1e-3, 101.26, 23.04)
SLOW = Kernel("router_top_k", False, "agrees, not faster", "", 0.0, 10.0, 11.0)
WRONG = Kernel("expert_down", False, "differs by 5.0e-01, more than 1.6e-02", "", 0.5, None, None)
BROKEN = Kernel("add_rms_norm", False, "raised RuntimeError: no", "", None, None, None)


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    machine, model = report["machine"], report["model"]
    assert machine["kind"] in ("cpu", "metal", "cuda")
    assert 0 < machine["memory_available"] <= machine["memory_total"]
    assert machine["versions"]["mlx"]
    assert report["limits"]["open_files"] > 0
    assert model["name"] == "mxserve-demo"
    assert model["bytes"] > 1 << 20
    assert [kernel["name"] for kernel in report["kernels"]] == list(REGIONS)
    if machine["kind"] != "metal":
        assert {kernel["reason"] for kernel in report["kernels"]} == {NO_KERNELS}
        assert not any(kernel["admitted"] for kernel in report["kernels"])


def test_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--kernels", "off"]) == 0
    out = capsys.readouterr().out
    for word in ("device", "memory", "limits", "BLAS", "mxserve-demo", *REGIONS):
        assert word in out
    assert out.count("turned off") == len(REGIONS)


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    assert cli.main(["doctor", "--model", str(tmp_path / "none")]) == doctor.EXIT_NO_MODEL
    out = capsys.readouterr().out
    assert "not loaded:" in out
    assert "device" in out
    assert cli.main(["doctor", "--json", "--model", str(tmp_path)]) == doctor.EXIT_NO_MODEL
    report = json.loads(capsys.readouterr().out)
    assert report["model"] is None
    assert "config.json" in report["failure"]


def test_a_kernel_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--kernels", "warp"])
    assert stop.value.code == 2
    assert "must be auto, off, or of add_rms_norm" in capsys.readouterr().err


def test_a_macs_table() -> None:
    lines = text(Report(MAC, REAL, (GOOD, SLOW, WRONG))).splitlines()
    assert "device           metal (Apple M3 Max, applegpu_g15s), bfloat16" in lines
    assert "command buffers  MLX_MAX_OPS_PER_BUFFER=100 (set by mxserve)" in lines
    assert "model            Qwen3.6-35B-A3B-UD-MXFP8, 40 layers, 34.5 GiB as stored" in lines
    table = lines[lines.index("") + 1 : lines.index("") + 5]
    assert table[0].split() == ["kernel", "runs", "error", "twin", "us", "kernel", "us", "why"]
    assert table[1].split() == [
        *("delta_step", "kernel", "rows=8", "3.1e-03", "101.3", "23.0", "agrees,", "faster"),
    ]
    assert table[2].split()[:5] == ["router_top_k", "twin", "0.0e+00", "10.0", "11.0"]
    assert table[3].split()[:4] == ["expert_down", "twin", "5.0e-01", "differs"]
    columns = {
        line.index(word) for line, word in zip(table, ["why", "agr", "agr", "dif"], strict=True)
    }
    assert len(columns) == 1


def test_a_twin_says_which_function_of_mlx_it_is_made_with() -> None:
    kernel = replace(BROKEN, name="delta_step", twin="mx.fast.gated_delta_update")
    assert "delta_step  twin mx.fast.gated_delta_update " in text(Report(MAC, REAL, (kernel,)))


def test_nothing_to_do() -> None:
    assert advice(MAC, REAL, (GOOD, SLOW)) == []
    assert text(Report(MAC, REAL, (GOOD,))).endswith("\n- Nothing to do.")


def test_on_linux() -> None:
    (only,) = advice(LINUX, DEMO, ())
    assert "Apple Silicon" in only
    bare = replace(LINUX, blas="reference BLAS (slow; install OpenBLAS)", compiler=None)
    blas, compiler, _ = advice(bare, DEMO, ())
    assert "libopenblas0-pthread" in blas
    assert "g++" in compiler


def test_a_translated_python_on_a_mac() -> None:
    (only,) = advice(replace(MAC, kind="cpu", machine="x86_64"), DEMO, ())
    assert "arm64" in only


def test_a_mac_that_is_too_small() -> None:
    (only,) = advice(replace(MAC, memory_total=36 * GIB, working_set=27 * GIB), DEMO, ())
    assert "has 36 GiB; the real model takes 37 GiB and does not fit" in only


def test_a_limit_that_can_be_raised() -> None:
    small = replace(MAC, memory_total=48 * GIB, working_set=36 * GIB)
    (only,) = advice(small, REAL, ())
    limit = int(only.rsplit("=", 1)[1])
    assert (REAL_MODEL >> 20) < limit < 48 << 10
    assert advice(replace(small, working_set=40 * GIB), REAL, ()) == []


def test_a_model_of_ones_own_is_counted_by_itself() -> None:
    big = replace(REAL, bytes=70 * GIB)
    (only,) = advice(replace(MAC, memory_total=64 * GIB), big, ())
    assert "this model takes 73 GiB" in only


def test_kernels_that_do_not_work_are_to_be_reported() -> None:
    (only,) = advice(MAC, REAL, (GOOD, SLOW, WRONG, BROKEN))
    assert "expert_down, add_rms_norm." in only
    assert "router_top_k" not in only
    assert "report" in only


def test_limits_of_files_and_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXSERVE_DISK_CACHE", str(tmp_path / "not" / "made" / "yet"))
    found = Limits.now()
    assert found.disk_free is not None
    assert found.disk_free > 0
    assert found.cache_folder == str(tmp_path / "not" / "made" / "yet")
    monkeypatch.setenv("MXSERVE_DISK_CACHE", "off")
    assert Limits.now().cache_folder is None
    assert Limits(1 << 20, "/cache", 100 * GIB).advice() == []
    few, full = Limits(256, "/cache", 3 * GIB).advice()
    assert "256 files" in few
    assert "3.0 are free" in full
    report = Report(LINUX, DEMO, (), limits=Limits(256, "/cache", 3 * GIB))
    assert report.advice()[-2:] == [few, full]
    assert "256 open files; 3.0 GiB free for the prompt cache in /cache" in text(report)
