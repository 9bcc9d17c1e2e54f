"""The kernel of the DeltaNet step, run on the CPU, against its twin."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.delta_rule import built_in
from model.kernels.delta_step import delta_step, metal_delta_step
from model.kernels.metal import UnsupportedError
from model.quantized import Linear
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import AFFINE8, DeltaSizes, Draw
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL = DeltaSizes(16, 32, 128, 128, hidden=2048)
DEMO = DeltaSizes(2, 4, 32, 32, hidden=192)
ODD = DeltaSizes(2, 6, 20, 37, width=3)
UNEVEN = DeltaSizes(1, 1, 200, 160, width=2)


def check(args: examples.Arguments, wide: examples.Arguments | None = None) -> None:
    # The convolution's tail is copied, not computed.
    agree(delta_step, metal_delta_step, args, exact=(1,), wide=wide)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [REAL, DEMO, ODD, UNEVEN])
@pytest.mark.parametrize("rows", [1, 3])
def test_agrees(dtype: mx.Dtype, sizes: DeltaSizes, rows: int) -> None:
    check(examples.delta_step(Draw(dtype), rows, sizes))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 5])
def test_packed_gates_are_projected_before(dtype: mx.Dtype, rows: int) -> None:
    args = examples.delta_step(Draw(dtype), rows, DEMO, spec=AFFINE8)
    # A projection of its own rounds what it gives.
    gates = args["in_proj_ab"](args["x"]).astype(mx.float32)
    check(args, {**examples.in_float32(args), "in_proj_ab": lambda _: gates})


@pytest.mark.parametrize("sizes", [REAL, ODD, UNEVEN])
@pytest.mark.parametrize("simdgroups", [1, 16])
def test_fewer_simdgroups(sizes: DeltaSizes, simdgroups: int) -> None:
    args = examples.delta_step(Draw(mx.float32), 2, sizes)
    agree(delta_step, partial(metal_delta_step, most_simdgroups=simdgroups), args, exact=(1,))


@pytest.mark.parametrize("dtype", TYPES)
def test_sixteen_rows(dtype: mx.Dtype) -> None:
    check(examples.delta_step(Draw(dtype), 16, DEMO))


@settings(max_examples=15)
@given(
    rows=st.integers(1, 16),
    sizes=st.sampled_from([DEMO, ODD]),
    scale=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_agrees_at_any_scale(rows: int, sizes: DeltaSizes, scale: float, seed: int) -> None:
    args = examples.delta_step(Draw(mx.float32, seed), rows, sizes)
    check({**args, **{name: args[name] * scale for name in ("qkvz", "x", "recurrent")}})


def test_steps_one_after_another_stay_together() -> None:
    twin = kernel = examples.delta_step(Draw(mx.float32), 2, DEMO)
    for step in range(20):
        new = examples.delta_step(Draw(mx.float32, step), 2, DEMO)
        fed = {name: new[name] for name in ("qkvz", "x")}
        twin, kernel = {**twin, **fed}, {**kernel, **fed}
        out, twin["conv_tail"], twin["recurrent"] = delta_step(**twin)
        got, kernel["conv_tail"], kernel["recurrent"] = metal_delta_step(
            **kernel, runner=Recorder(step)
        )
        assert np.allclose(np.array(got), np.array(out), atol=1e-4)
    assert np.allclose(np.array(kernel["recurrent"]), np.array(twin["recurrent"]), atol=1e-4)


def test_a_slow_decay_does_not_vanish() -> None:
    """softplus of a very negative number is its exponential, not zero."""
    args = examples.delta_step(Draw(mx.float32), 1, DEMO)
    # x is one: the first four rows give -20, the others -100, so that nothing is written.
    args["x"] = mx.ones((1, 1, 1))
    args["in_proj_ab"] = Linear(mx.repeat(mx.array([-20.0, -100.0]), 4)[:, None])
    args["dt_bias"] = mx.zeros(4)
    args["decay_rate"] = mx.full((4,), 1e5)
    _, _, recurrent = metal_delta_step(**args, runner=Recorder())
    want = np.array(args["recurrent"]) * np.exp(-1e5 * np.exp(-20.0))
    assert np.allclose(np.array(recurrent), want, rtol=1e-6, atol=1e-7)


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    args = examples.delta_step(Draw(mx.float32), 3, DEMO)
    args["qkvz"][1] = mx.nan
    out, _, recurrent = metal_delta_step(**args, runner=Recorder())
    assert mx.isnan(out).all(axis=(1, 2)).tolist() == [False, True, False]
    assert mx.isnan(recurrent).any(axis=(1, 2, 3)).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [REAL, DEMO])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_twin_with_mlxs_own_update_agrees(
    dtype: mx.Dtype, sizes: DeltaSizes, rows: int
) -> None:
    args = examples.delta_step(Draw(dtype), rows, sizes)
    found = zip(delta_step(**args, rule=built_in), delta_step(**args), strict=True)
    for got, want in found:
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        error = mx.abs(got.astype(mx.float32) - want.astype(mx.float32)).max()
        assert float(error) <= (1e-5 if dtype == mx.float32 else 2**-7) * float(mx.abs(want).max())


def test_one_launch_and_a_threadgroup_per_row_and_head() -> None:
    record = Recorder()
    metal_delta_step(**examples.delta_step(Draw(mx.bfloat16), 2, REAL), runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == ((1024, 32, 2), (1024, 1, 1))


def test_what_it_does_not_take() -> None:
    args = examples.delta_step(Draw(mx.float32), 1, DEMO)
    with pytest.raises(UnsupportedError, match="recurrent of"):
        metal_delta_step(**{**args, "recurrent": args["recurrent"].astype(mx.bfloat16)})
    with pytest.raises(UnsupportedError, match="conv_tail of"):
        metal_delta_step(**{**args, "conv_tail": args["conv_tail"].astype(mx.bfloat16)})
    for sizes in (DeltaSizes(1, 1, 600, 32), DeltaSizes(1, 1, 32, 32, width=1)):
        with pytest.raises(UnsupportedError, match="width"):
            metal_delta_step(**examples.delta_step(Draw(mx.float32), 1, sizes))
