"""The admission on a real network: the demo's weights, with kernels run on the CPU."""

from __future__ import annotations

import mlx.core as mx
import pytest

from model.checkpoint import load_weights
from model.config import read_config
from model.kernel_choice import OF_GUESSES, REGIONS
from model.kernels import Kernels, admission, probe
from model.kernels.admission import NO_KERNELS
from model.kernels.candidates import candidates
from model.lane_state import LaneState
from model.loading import DEMO_FOLDER
from model.network import Network
from model.state import SequenceState
from tests.model.kernels import metal_on_cpu
from tests.model.kernels.metal_on_cpu import needs_compiler


@pytest.fixture(scope="module", params=["float32", "packed"])
def network(request: pytest.FixtureRequest) -> Network:
    config = read_config(DEMO_FOLDER)
    dtype = mx.float32 if request.param == "float32" else mx.bfloat16
    weights = load_weights(
        DEMO_FOLDER, config, compute_dtype=dtype, dequantize=request.param == "float32"
    )
    return Network(config, weights, dtype, on_gpu=False)


def one_step(network: Network) -> mx.array:
    state = SequenceState(network.config, network.dtype)
    tokens = mx.array([7], mx.int32)
    hidden, _ = network.step(tokens, state.layers, mx.array([0], mx.int32), mx.array(0, mx.int32))
    return hidden.astype(mx.float32)


def steps_with_guesses(network: Network) -> mx.array:
    """Two steps of three tokens of two rows; the second goes on from different places."""
    config = network.config
    state = LaneState([SequenceState(config, network.dtype) for _ in range(2)])
    layers = state.layers
    layers.conv_tails = [x[:, None] for x in layers.conv_tails]
    layers.recurrent = [x[:, None] for x in layers.recurrent]
    # Not tokens whose experts are nearly tied: a rounding would choose others.
    tokens = mx.arange(20, 26, dtype=mx.int32).reshape(2, 3)
    last = mx.array([2, 0], mx.int32)
    tails, outputs = mx.zeros((2,), mx.int32), []
    for _ in range(2):
        hidden, layers = network.several(tokens, layers, last, state.lengths(), tails)
        tails = tails + last + 1
        outputs.append(hidden.astype(mx.float32))
    return mx.concatenate(outputs)


@needs_compiler
@pytest.mark.parametrize("guesses", [False, True])
def test_every_kernel_agrees_on_the_demo(
    network: Network, guesses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = candidates(metal_on_cpu.run)
    first_sizes = {name: sizes[name][:1] for name in sizes}
    monkeypatch.setattr(probe, "candidates", lambda: first_sizes)
    monkeypatch.setattr(probe, "LONG", 2100)
    monkeypatch.setattr(admission, "ROUNDS", 1)
    monkeypatch.setattr(admission, "WON", 1)
    monkeypatch.setattr(probe, "PROMPT", 20)
    network.kernels = Kernels.plain()
    plain, several = one_step(network), steps_with_guesses(network)
    # By name: whether they are faster on a CPU says nothing.
    rows = probe.admit(network, REGIONS, device="metal", guesses=guesses, compiled=False)
    assert [row.name for row in rows] == list(REGIONS)
    of_guesses = [row for row in rows if row.name in OF_GUESSES]
    assert len(of_guesses) == len(OF_GUESSES)
    tried = rows if guesses else [row for row in rows if row not in of_guesses]
    if not guesses:
        assert {row.reason for row in of_guesses} == {"this network does not use it"}
    assert all(row.admitted for row in tried), rows
    assert all(row.twin_us and row.kernel_us for row in tried)
    limit = 1e-4 if network.dtype == mx.float32 else 2**-5
    error = mx.abs(one_step(network) - plain).max() / mx.abs(plain).max()
    assert float(error) < limit
    error = mx.abs(steps_with_guesses(network) - several).max() / mx.abs(several).max()
    assert float(error) < 2 * limit  # of six tokens and the states they leave


def test_without_metal_or_turned_off_nothing_runs(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "step", None)
    rows = probe.admit(network, "auto", device="cpu")
    assert {row.reason for row in rows} == {NO_KERNELS}
    rows = probe.admit(network, "off", device="metal")
    assert {row.reason for row in rows} == {"turned off"}
    assert network.kernels == Kernels.plain()


def test_a_network_is_as_it_was_when_no_kernel_can_be_built(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mx.metal.is_available():
        pytest.skip("there is Metal")
    monkeypatch.setattr(probe, "PROMPT", 20)
    monkeypatch.setattr(probe, "other_twins", dict)
    before = one_step(network)
    rows = probe.admit(network, "auto", device="metal")
    assert not any(row.admitted for row in rows)
    assert mx.array_equal(one_step(network), before)


@pytest.mark.parametrize("device", ["metal", "cuda"])
def test_without_kernels_a_gpu_may_decode_with_mlxs_own_update(
    network: Network, device: probe.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mx.metal.is_available():
        pytest.skip("there is Metal")
    monkeypatch.setattr(probe, "PROMPT", 20)
    monkeypatch.setattr(probe, "LONG", 100)
    monkeypatch.setattr(admission._Times, "kernel_wins", property(lambda times: True))
    before = one_step(network)
    rows = probe.admit(network, "auto", device=device, guesses=True, compiled=False)
    assert not any(row.admitted for row in rows)
    made_with = {row.name: row.twin for row in rows if row.twin}
    updated = ("delta_step", "delta_step_several")
    assert made_with == dict.fromkeys(updated, "mx.fast.gated_delta_update")
    assert network.kernels != Kernels.plain()
    error = mx.abs(one_step(network) - before).max() / mx.abs(before).max()
    assert float(error) < (1e-4 if network.dtype == mx.float32 else 2**-5)
