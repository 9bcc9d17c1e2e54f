"""The kernel of a DeltaNet step of several tokens, run on the CPU, against its twin."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.delta_rule import built_in
from model.kernels.delta_step import delta_step, metal_delta_step
from model.kernels.delta_step_several import delta_step_several, metal_delta_step_several
from model.kernels.metal import UnsupportedError
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import AFFINE8, Arguments, DeltaSizes, Draw
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL = DeltaSizes(16, 32, 128, 128, hidden=2048)
DEMO = DeltaSizes(2, 4, 32, 32, hidden=192)
ODD = DeltaSizes(2, 6, 20, 37, width=3)
UNEVEN = DeltaSizes(1, 1, 200, 160, width=2)
WIDE = DeltaSizes(1, 2, 16, 24, width=6)  # the convolution sees more tokens than are fed
# Tokens fed, places kept before.
SHAPES = [(1, 1), (2, 1), (2, 2), (3, 3), (4, 1), (4, 4), (1, 4), (3, 2)]


def check(args: Arguments, wide: Arguments | None = None) -> None:
    # The convolution's tails are copied, not computed.
    agree(delta_step_several, metal_delta_step_several, args, exact=(1,), wide=wide)


def of_row(args: Arguments, row: int) -> Arguments:
    """One row's share of arguments, at the place that counts, as delta_step takes them."""
    one = dict(args)
    place = int(one.pop("last")[row])
    one["conv_tail"] = one.pop("conv_tails")[row : row + 1, place]
    one["recurrent"] = one["recurrent"][row : row + 1, place]
    return {**one, **{name: args[name][row : row + 1] for name in ("qkvz", "x")}}


@pytest.mark.parametrize(("tokens", "places"), SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_agrees_at_the_real_sizes(dtype: mx.Dtype, tokens: int, places: int) -> None:
    check(examples.delta_step_several(Draw(dtype), 1, tokens, places, REAL))


@pytest.mark.parametrize(("tokens", "places"), SHAPES)
@pytest.mark.parametrize("sizes", [DEMO, ODD, UNEVEN, WIDE])
def test_agrees_at_other_sizes(sizes: DeltaSizes, tokens: int, places: int) -> None:
    for dtype in TYPES:
        check(examples.delta_step_several(Draw(dtype), 3, tokens, places, sizes))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 5])
def test_packed_gates_are_projected_before(dtype: mx.Dtype, rows: int) -> None:
    args = examples.delta_step_several(Draw(dtype), rows, 3, 2, DEMO, spec=AFFINE8)
    # A projection of its own rounds what it gives; the twin asks token by token.
    gates = [args["in_proj_ab"](args["x"][:, t : t + 1]).astype(mx.float32) for t in range(3)]
    given = iter(gates)
    check(args, {**examples.in_float32(args), "in_proj_ab": lambda _: next(given)})


@pytest.mark.parametrize("sizes", [REAL, ODD, UNEVEN])
@pytest.mark.parametrize("simdgroups", [1, 16])
def test_fewer_simdgroups(sizes: DeltaSizes, simdgroups: int) -> None:
    args = examples.delta_step_several(Draw(mx.float32), 2, 2, 2, sizes)
    kernel = partial(metal_delta_step_several, most_simdgroups=simdgroups)
    agree(delta_step_several, kernel, args, exact=(1,))


@settings(max_examples=20)
@given(
    rows=st.integers(1, 16),
    tokens=st.integers(1, 4),
    places=st.integers(1, 4),
    sizes=st.sampled_from([DEMO, ODD]),
    scale=st.sampled_from([0.0, 0.01, 1.0, 30.0]),
    seed=st.integers(0, 10_000),
)
def test_agrees_at_any_scale(
    rows: int, tokens: int, places: int, sizes: DeltaSizes, scale: float, seed: int
) -> None:
    args = examples.delta_step_several(Draw(mx.float32, seed), rows, tokens, places, sizes)
    check({**args, **{name: args[name] * scale for name in ("qkvz", "x", "recurrent")}})


@pytest.mark.parametrize("places", [1, 2, 4])
def test_every_row_goes_on_from_its_own_place_token_by_token(places: int) -> None:
    """Bit by bit what the kernel of one token gives, fed one after another."""
    args = examples.delta_step_several(Draw(mx.float32), 5, 4, places, DEMO)
    args["last"] = mx.array([(3 * row + 1) % places for row in range(5)], mx.int32)
    found = metal_delta_step_several(**args, runner=Recorder())
    assert [x.shape[:2] for x in found] == [(5, 4)] * 3
    for row in range(5):
        single = of_row(args, row)
        for token in range(4):
            single["qkvz"] = args["qkvz"][row : row + 1, token : token + 1]
            single["x"] = args["x"][row : row + 1, token : token + 1]
            wanted = metal_delta_step(**single, runner=Recorder())
            _, single["conv_tail"], single["recurrent"] = wanted
            got = (found[0][row : row + 1, token : token + 1], *(x[row, token] for x in found[1:]))
            for ours, theirs in zip(got, wanted, strict=True):
                assert mx.array_equal(ours, theirs.reshape(ours.shape)), (row, token)


def test_one_token_from_one_place_is_that_of_the_kernel_for_one() -> None:
    """Whatever the place that counts is said to be."""
    for dtype in TYPES:
        args = examples.delta_step_several(Draw(dtype), 3, 1, 1, REAL)
        args["last"] = mx.array([3, 0, 1], mx.int32)
        several = metal_delta_step_several(**args, runner=Recorder())
        args["conv_tail"], args["recurrent"] = args.pop("conv_tails")[:, 0], args["recurrent"][:, 0]
        del args["last"]
        one = metal_delta_step(**args, runner=Recorder())
        for ours, theirs in zip(several, one, strict=True):
            assert mx.array_equal(ours.reshape(theirs.shape), theirs)


def test_steps_one_after_another_stay_together() -> None:
    """Each from a place of what the step before left, another for each row."""
    twin = kernel = examples.delta_step_several(Draw(mx.float32), 3, 2, 1, DEMO)
    for step in range(12):
        new = examples.delta_step_several(Draw(mx.float32, step), 3, 1 + step % 4, 2, DEMO)
        fed = {name: new[name] for name in ("qkvz", "x")}
        places = twin["recurrent"].shape[1]
        fed["last"] = mx.array([(step + row) % places for row in range(3)], mx.int32)
        twin, kernel = {**twin, **fed}, {**kernel, **fed}
        out, twin["conv_tails"], twin["recurrent"] = delta_step_several(**twin)
        got, kernel["conv_tails"], kernel["recurrent"] = metal_delta_step_several(
            **kernel, runner=Recorder(step)
        )
        assert np.allclose(np.array(got), np.array(out), atol=1e-4)
    assert np.allclose(np.array(kernel["recurrent"]), np.array(twin["recurrent"]), atol=1e-4)


def test_a_place_that_does_not_count_is_not_read() -> None:
    args = examples.delta_step_several(Draw(mx.float32), 2, 2, 3, DEMO)
    args["last"] = mx.array([1, 2], mx.int32)
    clean = delta_step_several(**args)
    for row, place in ((0, 0), (0, 2), (1, 0), (1, 1)):
        args["conv_tails"][row, place] = mx.nan
        args["recurrent"][row, place] = mx.nan
    for form in (delta_step_several, partial(metal_delta_step_several, runner=Recorder())):
        for ours, theirs in zip(form(**args), clean, strict=True):
            assert np.allclose(np.array(ours), np.array(theirs), atol=1e-5)


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    args = examples.delta_step_several(Draw(mx.float32), 3, 2, 2, DEMO)
    args["qkvz"][1, 1] = mx.nan
    out, _, recurrent = metal_delta_step_several(**args, runner=Recorder())
    lost = [[False, False], [False, True], [False, False]]
    assert mx.isnan(out).all(axis=2).tolist() == lost
    assert mx.isnan(recurrent).any(axis=(2, 3, 4)).tolist() == lost


@pytest.mark.parametrize("form", ["mlx", "kernel of one token"])
@pytest.mark.parametrize("dtype", TYPES)
def test_token_by_token_in_another_form(dtype: mx.Dtype, form: str) -> None:
    one = partial(delta_step, rule=built_in)
    if form != "mlx":
        one = partial(metal_delta_step, runner=Recorder())
    args = examples.delta_step_several(Draw(dtype), 2, 3, 2, DEMO)
    found = zip(delta_step_several(**args, one=one), delta_step_several(**args), strict=True)
    for got, want in found:
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        error = mx.abs(got.astype(mx.float32) - want.astype(mx.float32)).max()
        assert float(error) <= (2e-5 if dtype == mx.float32 else 2**-6) * float(mx.abs(want).max())


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_one_launch_and_a_threadgroup_per_row_and_head(tokens: int) -> None:
    record = Recorder()
    args = examples.delta_step_several(Draw(mx.bfloat16), 2, tokens, 2, REAL)
    metal_delta_step_several(**args, runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == ((1024, 32, 2), (1024, 1, 1))


def test_what_it_does_not_take() -> None:
    args = examples.delta_step_several(Draw(mx.float32), 1, 2, 2, DEMO)
    wrong = {"recurrent": args["recurrent"].astype(mx.bfloat16)}
    with pytest.raises(UnsupportedError, match="recurrent of"):
        metal_delta_step_several(**{**args, **wrong})
    with pytest.raises(UnsupportedError, match="5 tokens"):
        metal_delta_step_several(**examples.delta_step_several(Draw(mx.float32), 1, 5, 2, DEMO))
    wide = DeltaSizes(1, 1, 512, 512)
    with pytest.raises(UnsupportedError, match="threadgroup memory"):
        metal_delta_step_several(**examples.delta_step_several(Draw(mx.float32), 1, 4, 2, wide))
