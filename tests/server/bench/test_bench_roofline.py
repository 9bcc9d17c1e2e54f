"""The cost of a token: the receipt's fields and that they fit together; no speed is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.bench import all_command, command, main, roofline_command, roofline_peer
from server.bench.client import BenchError


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    """The receipt of a small geometry beside a given bandwidth."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("builtins.print", lambda *text, **_: printed.append(" ".join(map(str, text))))
        assert main(["roofline", "--geometry", "tiny", "--bandwidth", "400", "--json"]) == 0
    return json.loads(next(text for text in printed if text.startswith("{")))


def total(parts: dict[str, dict[str, int]]) -> int:
    return sum(count for kinds in parts.values() for count in kinds.values())


def test_the_three_figures_stand_at_the_top(tiny: dict[str, Any]) -> None:
    assert tiny["launches_per_token"] == tiny["launches"]["with_every_kernel"]["total"] > 0
    assert tiny["bytes_per_token"] == tiny["bytes"]["total"]["0"] > 0
    assert tiny["host_us_per_token"] == tiny["host"]["as_it_runs_here"]["median_us"] > 0
    assert {"machine", "versions", "conditions", "command"} <= tiny.keys()


def test_parts_add_up(tiny: dict[str, Any]) -> None:
    for form in tiny["launches"].values():
        assert total(form["parts"]) == form["total"]
    sizes = tiny["bytes"]
    state = sizes["recurrent state, read and written"]
    for context, size in sizes["total"].items():
        parts = sum(sizes["weights"].values()) + state + sizes["kv"][context]
        assert size == pytest.approx(parts, abs=len(sizes["weights"]))


def test_command_buffers_are_fewer_where_nothing_ends_them(tiny: dict[str, Any]) -> None:
    for form in tiny["launches"].values():
        default, wide = form["command_buffers"].values()
        assert default >= form["total"] / 51
        assert 1 <= wide < default


def test_kernels_launch_less_than_their_twins(tiny: dict[str, Any]) -> None:
    launches = tiny["launches"]
    assert launches["with_every_kernel"]["total"] < launches["with_twins_only"]["total"] / 2
    drawn, greedy = launches["with_every_kernel_sampled"], launches["with_every_kernel"]
    others = drawn["parts"].keys() - {"sampler"}
    assert {part: drawn["parts"][part] for part in others} == {
        part: greedy["parts"][part] for part in others
    }


def test_every_guess_adds_launches_and_bytes(tiny: dict[str, Any]) -> None:
    steps = [tiny["guesses"][count] for count in ("1", "2", "3")]
    launches = [tiny["launches_per_token"], *(step["launches"] for step in steps)]
    assert launches == sorted(set(launches))
    for part in steps[0]["more_bytes"]:
        sizes = [step["more_bytes"][part] for step in steps]
        assert 0 < sizes[0] < sizes[1] < sizes[2]


def test_the_limit_is_the_bandwidth_over_the_bytes(tiny: dict[str, Any]) -> None:
    assert tiny["bandwidth"] == {"bytes_per_second": 400e9, "measured": False}
    for context, rate in tiny["limit_tok_s"].items():
        assert rate == pytest.approx(400e9 / tiny["bytes"]["total"][context])
    assert tiny["limit_tok_s"]["0"] > tiny["limit_tok_s"]["131072"]


def test_the_real_geometry_at_the_cards_bandwidth(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline_command, "HOST_CALLS", 1)
    assert main(["roofline", "--bandwidth", "400"]) == 0
    lines = {line.rsplit("  ", 1)[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert lines["together after 0 tokens"].endswith("3,513.8")
    assert lines["after 0 tokens, as stored"].endswith("113.8")
    assert next(line for line in lines.values() if line.startswith("1  ")).endswith("1.41")


def test_a_model_at_hand_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["roofline", "--model", "demo", "--bandwidth", "1", "--json"]) == 0
    reached = json.loads(capsys.readouterr().out)["reached"]
    assert reached["least_tok_s"] <= reached["tok_s"] <= reached["most_tok_s"]
    share = reached["tok_s"] * reached["bytes_per_token_here"] / 1e9
    assert reached["share_of_limit"] == pytest.approx(share)
    assert reached["limit_tok_s_here"] == pytest.approx(1e9 / reached["bytes_per_token_here"])


def test_mlx_lm_stands_beside_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {
        False: {
            "version": "9.9",
            "launches": [["experts", "copy", 7], ["sampler", "sort", 2]],
            "command_buffers": 5,
        },
        True: {"version": "9.9", "microseconds": [1.0, 5.0, 3.0]},
    }
    monkeypatch.setattr(roofline_peer, "_run", lambda flags: answers["--host" in flags])
    flags = ["--geometry", "tiny", "--bandwidth", "1", "--vs", "mlx-lm"]
    assert main(["roofline", *flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["mlx-lm"]
    assert found["launches_per_token"] == 9
    assert found["command_buffers"] == 5
    assert found["parts"] == {"experts": {"copy": 7}, "sampler": {"sort": 2}}
    assert found["host"] == {"median_us": 3.0, "least_us": 1.0, "most_us": 5.0, "count": 3}
    assert main(["roofline", *flags]) == 0
    assert "mlx-lm 9.9" in capsys.readouterr().out


def test_mlx_lms_step_sees_our_package_and_nothing_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    script = (
        "#!/bin/sh\n"
        'test -f "$PYTHONPATH/model/launches/mlx_lm_step.py" && '
        'echo "{\\"beside\\": $(ls "$PYTHONPATH" | wc -l), \\"flags\\": \\"$*\\"}"\n'
    )
    python.write_text(script)
    python.chmod(0o755)
    monkeypatch.setattr(roofline_peer.peers, "interpreter", lambda _: python)
    answer = roofline_peer._run(["--geometry", "tiny"])
    assert answer == {"beside": 1, "flags": "-m model.launches.mlx_lm_step --geometry tiny"}
    python.write_text("#!/bin/sh\necho no such thing >&2\nexit 1\n")
    with pytest.raises(BenchError, match="no such thing"):
        roofline_peer._run([])


@pytest.mark.parametrize(
    "words", [["--model", "demo", "--vs", "mlx-lm"], ["--model", "x", "--geometry", "tiny"]]
)
def test_what_does_not_go_together_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["roofline", *words])
    assert stopped.value.code == 2


def test_a_folder_without_a_checkpoint_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["roofline", "--model", str(tmp_path)]) == 1
    assert "no config.json" in capsys.readouterr().err


class Calls:
    """Stands for `mxserve bench`: notes the words and writes a receipt."""

    def __init__(self, statuses: dict[str, int] | None = None) -> None:
        self.words: dict[str, list[str]] = {}
        self._statuses = statuses or {}

    def __call__(self, words: list[str]) -> int:
        output = Path(words[words.index("--output") + 1])
        self.words[output.stem] = words
        print("a page")
        if not self._statuses.get(output.stem):
            output.write_text(json.dumps({"of": output.stem}))
        return self._statuses.get(output.stem, 0)


def test_all_runs_each_with_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "main", calls := Calls())
    flags = ["--model", "m", "--vs", "mlx-lm", "--vs-openblas", "--rounds", "2"]
    assert all_command.main([*flags, "--contexts", "9", "--json", "--plot", str(tmp_path)]) == 0
    assert list(calls.words) == list(all_command.STEPS)
    receipts = json.loads(capsys.readouterr().out)
    assert receipts == {name: {"of": name} for name in all_command.STEPS}
    assert calls.words["roofline"][:3] == ["roofline", "--model", "m"]
    assert "--vs" not in calls.words["roofline"]  # it compares at a named geometry only
    assert calls.words["decode"][:6] == [
        "decode",
        "--model",
        "m",
        "--vs",
        "mlx-lm",
        "--vs-openblas",
    ]
    assert calls.words["decode"][-4:-2] == ["--plot", str(tmp_path)]
    assert "--contexts" not in calls.words["prefill"]
    assert calls.words["chat"][:2] == ["--model", "m"]
    assert calls.words["replay"][:2] == ["replay", "all"]
    parsers = {"decode": "decode_command", "prefill": "prefill_command", "serve": "serve_command"}
    for name, module in parsers.items():  # the words are ones that it understands
        __import__(f"server.bench.{module}", fromlist=["parser"]).parser().parse_args(
            calls.words[name][1:]
        )


def test_all_goes_on_after_a_failure_and_stops_when_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "main", calls := Calls({"decode": 1}))
    assert all_command.main(["--only", "prefill,decode"]) == 1
    assert list(calls.words) == ["decode", "prefill"]
    monkeypatch.setattr(command, "main", calls := Calls({"decode": 130}))
    assert all_command.main(["--only", "decode,prefill"]) == 130
    assert list(calls.words) == ["decode"]
    with pytest.raises(SystemExit):
        all_command.main(["--only", "decode,nothing"])
    capsys.readouterr()
