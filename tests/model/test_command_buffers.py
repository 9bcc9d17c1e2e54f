"""The decision about command buffers, without a Mac."""

import subprocess
import sys

import pytest

from model import command_buffers
from model.command_buffers import ELEMENTS, MEMORY, OPS, decide

GIB = 1 << 30


@pytest.mark.parametrize("chip", ["Apple M1 Max", "Apple M3 Ultra", "Apple M4 Pro", "Apple M10"])
def test_a_chip_with_room_for_the_model(chip: str) -> None:
    assert decide(chip, 64 * GIB, {}) == {OPS: "100", ELEMENTS: "640"}


@pytest.mark.parametrize("name", [OPS, ELEMENTS])
def test_what_the_user_set_stays(name: str) -> None:
    wanted = decide("Apple M3 Max", 128 * GIB, {name: "7", "PATH": "/bin"})
    assert wanted == {
        other: value
        for other, value in decide("Apple M3 Max", 128 * GIB, {}).items()
        if other != name
    }
    assert decide("Apple M3 Max", 128 * GIB, {OPS: "", ELEMENTS: "1"}) == {}


@pytest.mark.parametrize(
    "chip", ["", "Intel(R) Core(TM) i9", "Apple A17 Pro", "Apple Mx", "M3 Max"]
)
def test_other_processors_are_left_alone(chip: str) -> None:
    assert decide(chip, 128 * GIB, {}) == {}


def test_a_small_mac_is_left_alone() -> None:
    assert decide("Apple M3", MEMORY - 1, {}) == {}
    assert decide("Apple M3", MEMORY, {}) != {}


@pytest.mark.skipif(sys.platform == "darwin", reason="for other systems")
def test_elsewhere_nothing_is_asked_or_set() -> None:
    assert (command_buffers.chip_name(), command_buffers.memory_bytes()) == ("", 0)
    program = f"import model, os; print([n for n in ({OPS!r}, {ELEMENTS!r}) if n in os.environ])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.strip() == "[]"


def test_on_a_mac_they_are_set_before_mlx_and_not_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_buffers, "chip_name", lambda: "Apple M3 Max")
    monkeypatch.setattr(command_buffers, "memory_bytes", lambda: 128 * GIB)
    environ: dict[str, str] = {}
    assert command_buffers.apply(environ, mlx_is_loaded=True) == environ == {}
    assert command_buffers.apply(environ, mlx_is_loaded=False) == {OPS: "100", ELEMENTS: "640"}
    assert environ == {OPS: "100", ELEMENTS: "640"}
