"""Many streams against a scripted server whose speed is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.bench import main
from server.bench.load import Level
from server.bench.serve_report import Fall, Rounds, falls
from tests.conftest import ROOT
from tests.server.scripted_server import Script, serving, whole_answer

GAP_S = 0.02


def paced(body: dict[str, Any]) -> Iterator[str]:
    return whole_answer("y" * (body["max_tokens"] - 1), gap_s=GAP_S)


def test_sum_gap_and_first_text_are_those_of_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, plot = tmp_path / "receipt.json", tmp_path / "chart.svg"
    flags = ["--streams", "1,4", "--seconds", "1", "--rounds", "2", "--answer-tokens", "20"]
    flags += ["--long-prompt", "0", "--warm-up", "2", "--output", str(file), "--plot", str(plot)]
    with serving(Script(paced)) as url:
        assert main(["serve", "--url", url, *flags]) == 0
    assert "4 streams: sum" in capsys.readouterr().out
    assert plot.read_text().startswith("<svg")
    receipt = json.loads(file.read_text())
    assert receipt["conditions"]["answer_tokens"] == 20
    median = {f["name"]: f["servers"]["mxserve"]["median"] for f in receipt["figures"]}
    # Each token takes GAP_S and a little; a slow machine only makes it more.
    assert 0.3 / GAP_S < median["1 stream: sum"] <= 1.1 / GAP_S
    assert 3 < median["4 streams: sum"] / median["1 stream: sum"] < 5
    assert 1e3 * GAP_S <= median["1 stream: gap p50"] < 3e3 * GAP_S
    assert median["1 stream: TTFT p50"] >= 1e3 * GAP_S


def test_streams_beside_a_long_prompt(tmp_path: Path) -> None:
    """The server falls silent on everybody while it reads a long prompt."""
    free = threading.Event()
    free.set()

    def answer(body: dict[str, Any]) -> Iterator[str]:
        words = sum(len(message["content"].split()) for message in body["messages"])
        if words > 500:
            free.clear()
            time.sleep(0.5)
            free.set()
        for frame in whole_answer("y" * min(body["max_tokens"], 1000), prompt=words, gap_s=GAP_S):
            free.wait(10)
            yield frame

    file = tmp_path / "receipt.json"
    flags = ["--streams", "1", "--seconds", "0.2", "--rounds", "1", "--answer-tokens", "4"]
    flags += ["--long-prompt", "800", "--beside", "2", "--output", str(file), "--warm-up", "0"]
    with serving(Script(answer)) as url:
        assert main(["serve", "--url", url, *flags]) == 0
    figures = json.loads(file.read_text())["figures"]
    median = {f["name"]: f["servers"]["mxserve"]["median"] for f in figures}
    assert median["calm gap p99"] < 400
    assert 490 <= median["longest gap beside it"] < 1500
    assert median["TTFT of the long prompt"] >= 500


def test_a_server_that_refuses_everything_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    script = Script(lambda _: iter(['{"error": {"message": "busy"}}']), status=503)
    with serving(script) as url:
        assert main(["serve", "--url", url, "--streams", "2", "--long-prompt", "0"]) == 1
    assert "every request of the warm-up failed" in capsys.readouterr().err


def test_a_fall_is_noise_only_where_ranges_touch() -> None:
    def level(streams: int, rate: float) -> Level:
        return Level(streams, rate, (), (), 1, ())

    rounds = Rounds(
        {
            1: [level(1, 100.0), level(1, 110.0)],
            2: [level(2, 80.0), level(2, 90.0)],
            4: [level(4, 70.0), level(4, 85.0)],
            8: [level(8, 200.0)],
        }
    )
    assert falls(rounds) == [
        Fall(1, 2, pytest.approx(85 / 105), clear=True),  # type: ignore[arg-type]
        Fall(2, 4, pytest.approx(77.5 / 85), clear=False),  # type: ignore[arg-type]
    ]


def children(pid: int) -> list[int]:
    command = ["ps", "-o", "pid=", "--ppid", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="ps --ppid")
def test_a_benchmark_that_is_ended_leaves_no_server_behind() -> None:
    command = [sys.executable, "-m", "server", "bench", "serve", "--seconds", "600"]
    bench = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert bench.stderr is not None
    with bench.stderr:
        assert "starting mxserve" in bench.stderr.readline()
        deadline = time.monotonic() + 30
        while not (started := children(bench.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert started
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) == 130
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
