"""Benchmarks inside the process: with workers whose answers are known, and once with the demo."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from server.bench import decode_workers, main, side_by_side
from server.bench.client import BenchError
from server.bench.decode_workers import Worker
from server.bench.prefill_command import WARM_UP
from server.bench.receipt import Value, Values, command_line

KNOWN = """
import json, sys
print(json.dumps({"about": "known"}), flush=True)
for line in sys.stdin:
    command = json.loads(line)
    if command["do"] == "leave":
        print("the reason", file=sys.stderr, flush=True)
        sys.exit(3)
    answer = {"error": "no"} if command["do"] == "no" else {"asked": command}
    print(json.dumps(answer), flush=True)
"""


def known_worker() -> Worker:
    return Worker("known", [sys.executable, "-c", KNOWN])


def test_a_worker_answers_what_it_is_asked() -> None:
    with known_worker() as worker:
        assert worker.about == {"about": "known"}
        assert worker.ask("decode", context=5) == {"asked": {"do": "decode", "context": 5}}
        with pytest.raises(BenchError, match="known: no: no"):
            worker.ask("no")
        assert worker.ask("again") == {"asked": {"do": "again"}}


def test_a_worker_that_ends_says_why() -> None:
    with (
        known_worker() as worker,
        pytest.raises(BenchError, match=r"known ended with status 3:\nthe reason"),
    ):
        worker.ask("leave")


def test_a_worker_that_never_gets_ready_is_an_error() -> None:
    broken = Worker("broken", [sys.executable, "-c", "raise SystemExit('no model')"])
    with pytest.raises(BenchError, match="no model"), broken:
        pass


class Scripted:
    """A worker with known speeds: seconds a token, by context; None where it has no memory."""

    def __init__(self, name: str, a_step: dict[int, float | None]) -> None:
        self.name, self.about, self._a_step = name, {"mlx": "x"}, a_step
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        self.asked.append((do, values))
        if do == "dialogues":  # every guess costs half a step, every second one is right
            depth = values["depth"]
            steps = 10
            tokens = steps + depth * steps // 2
            seconds = steps * 0.01 * (1 + depth / 2)
            guesses = {"drafted": depth * steps, "accepted": depth * steps // 2}
            return {"tokens": tokens, "steps": steps, "seconds": seconds, **guesses}
        if do == "host_time":
            return {"microseconds": [1.0, 30.0, 31.0]}
        size = values["context"] if do == "decode" else values["tokens"]
        seconds = self._a_step.get(size, 0.001)
        if seconds is None:
            return {"skipped": "too large"}
        times = values["tokens"] if do == "decode" else size
        return {"seconds": seconds * times, "peak_bytes": size << 20}


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """mxserve, which is twice as fast, and another, which has no memory for 4,000 tokens."""
    workers = [
        Scripted("mxserve", {100: 0.01, 4000: 0.02}),
        Scripted("mlx-lm", {WARM_UP: 0.02, 100: 0.02, 4000: None}),
    ]

    @contextmanager
    def contenders(*_: Any, **__: Any):
        yield workers

    monkeypatch.setattr(side_by_side, "contenders", contenders)
    return workers


def figures(receipt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {figure["name"]: figure for figure in receipt["figures"]}


def test_decode_tells_what_guesses_gain(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decode", "--mtp", "--rounds", "2", "--tokens", "8", "--json"]) == 0
    found = figures(json.loads(capsys.readouterr().out))
    for depth in range(4):
        for temperature in (0, 1):
            how = f"{depth} guessed, temperature {temperature}"
            gain = found[f"tokens a step, {how}"]["servers"]["mxserve"]
            assert gain["median"] == 1 + depth / 2
            assert gain["count"] == 2
            speed = found[f"answers, {how}"]["servers"]["mxserve"]["median"]
            assert speed == pytest.approx(100)
    depths = [asked["depth"] for do, asked in two[0].asked if asked["temperature"] == 0]
    assert depths[4:] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert not two[1].asked


def test_decode_tells_speed_time_memory_and_the_hosts_part(
    two: list[Scripted], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--contexts", "4000,100", "--tokens", "8", "--rounds", "2", "--vs", "mlx-lm"]
    output = ["--json", "--output", str(tmp_path / "r.json"), "--plot", str(tmp_path / "plots")]
    assert main(["decode", *flags, *output]) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert receipt == json.loads((tmp_path / "r.json").read_text())
    found = figures(receipt)
    speed = found["decode after 100 tokens"]
    assert speed["servers"]["mxserve"]["median"] == pytest.approx(100)
    assert speed["servers"]["mxserve"]["count"] == 2
    assert speed["ratio"] == {"times_better": pytest.approx(2), "beyond_noise": True}
    assert found["a step after 100 tokens"]["servers"]["mlx-lm"]["median"] == pytest.approx(20)
    assert found["peak memory after 4,000 tokens"]["servers"].keys() == {"mxserve"}
    assert found["host time of a step"]["servers"]["mxserve"]["median"] == 30.0
    assert receipt["notes"] == ["mlx-lm, 4,000 tokens: too large"]
    assert {"machine", "versions", "conditions", "command"} <= receipt.keys()
    assert receipt["command"].startswith("mxserve bench decode --contexts 4000,100")
    assert str(tmp_path) not in receipt["command"]
    assert receipt["conditions"]["contenders"]["mlx-lm"] == {"mlx": "x"}
    chart = (tmp_path / "plots" / "decode.svg").read_text()
    assert chart.count("<polyline") == 6
    assert "mlx-lm" in chart


def test_contenders_take_turns_and_are_not_asked_again_for_what_they_cannot(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[tuple[str, int]] = []
    for worker in two:
        real = worker.ask

        def ask(do: str, *, worker: Scripted = worker, real: Any = real, **values: Any) -> Any:
            if do == "decode":
                order.append((worker.name, values["context"]))
            return real(do, **values)

        worker.ask = ask  # type: ignore[method-assign]
    assert main(["decode", "--contexts", "100,4000", "--rounds", "2", "--vs", "mlx-lm"]) == 0
    assert order == [
        ("mxserve", 100), ("mlx-lm", 100), ("mxserve", 4000), ("mlx-lm", 4000),
        ("mlx-lm", 100), ("mxserve", 100), ("mxserve", 4000),
    ]  # fmt: skip
    page = capsys.readouterr().out
    assert "2.00x" in page
    assert "mlx-lm, 4,000 tokens: too large" in page


def test_the_hosts_time_can_be_left_out(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["decode", "--contexts", "100", "--tokens", "4", "--rounds", "1", "--json"]
    assert main([*words, "--host-calls", "0"]) == 0
    assert "host time of a step" not in figures(json.loads(capsys.readouterr().out))
    assert main([*words, "--host-calls", "7"]) == 0
    counts = [values["count"] for do, values in two[1].asked if do == "host_time"]
    assert counts == [7]


def test_prefill_asks_everybody_the_same_new_prompts(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prefill", "--sizes", "100", "--rounds", "3", "--json"]) == 0
    found = figures(json.loads(capsys.readouterr().out))
    assert found["prefill of 100 tokens"]["servers"]["mxserve"]["median"] == pytest.approx(100)
    asked = [[v["seed"] for do, v in worker.asked if v["tokens"] == 100] for worker in two]
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 3
    for worker in two:  # two prompts warm it up
        tokens = [v["tokens"] for _, v in worker.asked]
        assert tokens[:2] == [WARM_UP, WARM_UP]
        assert tokens[2:] == [100, 100, 100]


def test_not_even_the_first_size_where_it_would_take_too_long(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prefill", "--sizes", "200", "--rounds", "1", "--longest", "3", "--json"]) == 0
    receipt = json.loads(capsys.readouterr().out)
    assert figures(receipt)["prefill of 200 tokens"]["servers"].keys() == {"mxserve"}
    assert [v["tokens"] for _, v in two[1].asked] == [WARM_UP, WARM_UP]


def test_a_size_that_would_take_too_long_is_not_asked_for(
    two: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--sizes", "100,200", "--rounds", "2", "--longest", "3"]
    assert main(["prefill", *flags, "--json"]) == 0  # 0.01 and 0.02 s a token at 100
    receipt = json.loads(capsys.readouterr().out)
    assert figures(receipt)["prefill of 200 tokens"]["servers"].keys() == {"mxserve"}
    assert len(receipt["notes"]) == 1
    assert receipt["notes"][0].startswith("mlx-lm, 200 tokens: not asked")


@pytest.mark.parametrize(
    "words",
    [
        ["decode", "--tokens", "0"],
        ["decode", "--contexts", "0"],
        ["decode", "--host-calls", "-1"],
        ["prefill", "--rounds", "0"],
    ],
)
def test_what_makes_no_sense_is_refused(words: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2


def test_a_failing_contender_is_a_failing_benchmark(
    two: list[Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: Any, **__: Any) -> Any:
        raise BenchError("mlx-lm: decode: no")

    monkeypatch.setattr(two[1], "ask", ask)
    assert main(["decode", "--contexts", "100"]) == 1
    assert "mlx-lm: decode: no" in capsys.readouterr().err


def test_ctrl_c_ends_it(
    two: list[Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(two[0], "ask", ask)
    assert main(["decode", "--contexts", "100"]) == main(["prefill", "--sizes", "100"]) == 130
    assert capsys.readouterr().err.count("stopped") == 2


def test_a_worker_ends_with_its_block() -> None:
    with known_worker() as worker:
        process = worker._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


def test_a_difference_inside_the_noise_is_not_called_one() -> None:
    values = Values()
    for round_, (ours, theirs) in enumerate([(10.0, 9.0), (11.0, 10.5)]):
        values.add("a", Value("x", "tok/s", ours, round_))
        values.add("b", Value("x", "tok/s", theirs, round_))
    assert "~ (1.08x)" in values.page()


def test_the_command_names_no_folders() -> None:
    line = command_line("decode", ["--model", "/home/somebody/models/small", "--rounds", "2"])
    assert line == "mxserve bench decode --model small --rounds 2"


def test_the_demo_is_measured_from_inside(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--contexts", "64", "--tokens", "2", "--rounds", "1", "--json"]
    assert main(["decode", *flags]) == 0
    receipt = json.loads(capsys.readouterr().out)
    found = figures(receipt)
    assert found["decode after 64 tokens"]["servers"]["mxserve"]["median"] > 0
    assert found["host time of a step"]["servers"]["mxserve"]["median"] > 0
    assert receipt["conditions"]["contenders"]["mxserve"]["device"] in ("cpu", "metal", "cuda")


def test_mlx_lms_worker_is_our_file_in_its_own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(decode_workers.peers, "interpreter", lambda _: tmp_path / "python")
    worker = decode_workers.peer_worker(tmp_path, openblas=True)
    python, script, folder = worker.command
    assert (python, folder) == (str(tmp_path / "python"), str(tmp_path))
    assert Path(script).is_file()
    assert ("LD_PRELOAD" in worker.environment) == (sys.platform == "linux")
    assert decode_workers.peer_worker(None, openblas=False).environment == {}
