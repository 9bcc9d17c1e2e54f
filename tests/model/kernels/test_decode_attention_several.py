"""The kernels of attention of several tokens, run on the CPU, against their twin."""

from functools import partial
from math import prod

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.decode_attention import SPLIT_FROM, metal_decode_attention
from model.kernels.decode_attention_several import (
    decode_attention_several,
    metal_decode_attention_several,
)
from model.kernels.metal import MAX_TOKENS, Launch, UnsupportedError
from model.mtp_flight import MOST_DEPTH, PLACES
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import Draw, HeadSizes
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL, DEMO, ODD = HeadSizes(16, 2, 256), HeadSizes(4, 2, 64), HeadSizes(3, 1, 36)
TAIL = 256
together = partial(metal_decode_attention_several, parts=8, together=True)


def check(args: examples.Arguments, kernel=metal_decode_attention_several) -> None:
    """What lies past what the last token of each row sees is not finite, so that reading it
    shows."""
    poisoned = dict(args)
    ends = args["tail_lengths"] + args["q"].shape[2]
    for part, lengths in (("body", args["body_lengths"]), ("tail", ends)):
        for kind in ("keys", "values"):
            buffer = args[f"{part}_{kind}"]
            filled = mx.arange(buffer.shape[2])[:, None] < lengths[:, None, None, None]
            poisoned[f"{part}_{kind}"] = mx.where(filled, buffer, mx.nan).astype(buffer.dtype)
    agree(lambda **_: decode_attention_several(**_finite(_)), kernel, poisoned)


def _finite(args: examples.Arguments) -> examples.Arguments:
    """For the twin, which multiplies what lies past the lengths by zero."""
    buffers = [name for name in args if name.endswith(("_keys", "_values"))]
    return {**args, **{name: mx.nan_to_num(args[name], nan=0.0) for name in buffers}}


def raw(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


def arguments(dtype, tokens, sizes, capacity, *, tail=TAIL, bodies, tails) -> examples.Arguments:
    """With one row for each of these lengths of bodies and tails."""
    rows = len(tails)
    args = examples.decode_attention_several(Draw(dtype), rows, tokens, sizes, capacity, tail)
    args["body_lengths"] = mx.array(bodies, mx.int32)
    args["tail_lengths"] = mx.array(tails, mx.int32)
    return args


@pytest.mark.parametrize("kernel", [metal_decode_attention_several, together])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("sizes", "tokens"), [(REAL, 2), (REAL, 4), (DEMO, 2), (ODD, 3)])
def test_short_contexts(kernel, dtype: mx.Dtype, sizes: HeadSizes, tokens: int) -> None:
    bodies, tails = [256, 0, 101], [0, TAIL - tokens, 17]
    check(arguments(dtype, tokens, sizes, 256, bodies=bodies, tails=tails), kernel)


@pytest.mark.parametrize("kernel", [metal_decode_attention_several, together])
@pytest.mark.parametrize(("dtype", "tokens"), [(mx.bfloat16, 2), (mx.float32, 4)])
def test_the_heads_own_layer_has_no_body_and_a_longer_tail(kernel, dtype, tokens) -> None:
    """Whatever lengths its body is said to have: they are the places that it sees no more."""
    bodies, tails = [5000, 3], [900, PLACES - tokens]
    check(arguments(dtype, tokens, REAL, 0, tail=PLACES, bodies=bodies, tails=tails), kernel)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("sizes", "tokens"), [(REAL, 2), (REAL, 4), (DEMO, 3), (ODD, 4)])
def test_long_contexts(dtype: mx.Dtype, sizes: HeadSizes, tokens: int) -> None:
    bodies, tails = [SPLIT_FROM, 700], [100, 3]
    check(arguments(dtype, tokens, sizes, SPLIT_FROM, bodies=bodies, tails=tails))


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 16),
    tokens=st.integers(1, MAX_TOKENS),
    sizes=st.sampled_from([DEMO, ODD]),
    capacity=st.sampled_from([0, 64]),
    kernel=st.sampled_from([metal_decode_attention_several, together]),
    seed=st.integers(0, 10_000),
)
def test_any_lengths(rows, tokens, sizes, capacity, kernel, seed) -> None:
    draw = Draw(mx.float32, seed)
    check(examples.decode_attention_several(draw, rows, tokens, sizes, capacity, 8), kernel)


@pytest.mark.parametrize("length", [0, 1, 130, SPLIT_FROM])
@pytest.mark.parametrize("tail", [0, 1, 4])
def test_a_long_body_of_any_length(length: int, tail: int) -> None:
    """Down to fewer keys than there are threadgroups to share them, in some of which only the last
    tokens see any."""
    bodies, tails = [length] * 8 + [77], [tail] * 8 + [2]
    check(arguments(mx.float32, 4, ODD, SPLIT_FROM, tail=8, bodies=bodies, tails=tails))


def test_scores_that_would_overflow_an_exponential() -> None:
    for capacity in (64, SPLIT_FROM):
        args = arguments(mx.float32, 3, DEMO, capacity, bodies=[60, 9], tails=[9, 60])
        check({**args, "q": args["q"] * 1000.0})


@pytest.mark.parametrize("capacity", [64, SPLIT_FROM])
def test_a_token_does_not_feel_those_after_it(capacity: int) -> None:
    args = arguments(mx.float32, 3, DEMO, capacity, tail=16, bodies=[60, 9], tails=[0, 11])
    other = {name: args[name] + 0 for name in ("q", "tail_keys", "tail_values")}
    for row, first in enumerate([0, 11]):
        for name in ("tail_keys", "tail_values"):
            other[name][row, :, first + 1 :] = 100.0
    other["q"][:, :, 1:] = 5.0
    for kernel in (metal_decode_attention_several, together):
        before = kernel(**args, runner=Recorder())
        after = kernel(**{**args, **other}, runner=Recorder())
        assert np.array_equal(raw(before[:, 0]), raw(after[:, 0]))
        assert not np.allclose(raw(before[:, 1:]), raw(after[:, 1:]), atol=0.1)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("sizes", "capacity"), [(REAL, 0), (DEMO, 256), (ODD, SPLIT_FROM)])
def test_one_token_is_the_kernel_of_one_token(dtype, sizes: HeadSizes, capacity: int) -> None:
    args = arguments(dtype, 1, sizes, capacity, bodies=[capacity, 0], tails=[90, 90])
    one = {name: args[name] for name in args if name != "tail_lengths"}
    one["tail_length"] = mx.array(91, mx.int32)
    want = metal_decode_attention(**one, runner=Recorder())
    for kernel in (metal_decode_attention_several, partial(together, parts=32)):
        got = kernel(**args, runner=Recorder())
        assert got.dtype == want.dtype
        assert np.array_equal(raw(got), raw(want))


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    for capacity in (64, SPLIT_FROM):
        args = arguments(mx.float32, 2, DEMO, capacity, tail=8, bodies=[9] * 3, tails=[1, 6, 0])
        args["q"][1] = mx.nan
        out = metal_decode_attention_several(**args, runner=Recorder())
        assert mx.isnan(out).all(axis=(1, 2)).tolist() == [False, True, False]
        assert mx.isnan(out).any(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rows", "tokens", "capacity", "at_once", "threadgroups"),
    [
        (1, 2, 0, False, [16 * 2]),
        (1, 2, 1536, True, [16]),
        (3, 4, 1536, False, [16 * 4 * 3]),
        (3, 4, 1536, True, [16 * 3]),
        (1, 2, 2048, False, [32 * 2, 16 * 2]),
        (1, 4, 131_072, True, [128 * 2, 16 * 4]),
        (16, 2, 2048, False, [8 * 32, 16 * 16 * 2]),
    ],
)
def test_launches(rows, tokens, capacity, at_once, threadgroups: list[int]) -> None:
    launches = []

    def record(launch: Launch) -> list[mx.array]:
        launches.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs]

    def empty(*shape: int) -> mx.array:
        return mx.zeros(shape, mx.bfloat16)

    out = metal_decode_attention_several(
        empty(rows, 16, tokens, 256),
        empty(rows, 2, capacity, 256),
        empty(rows, 2, capacity, 256),
        empty(rows, 2, TAIL, 256),
        empty(rows, 2, TAIL, 256),
        mx.zeros(rows, mx.int32),
        mx.zeros(rows, mx.int32),
        1 / 16,
        empty(rows, tokens, 4096),
        together=at_once,
        runner=record,
    )
    assert out.shape == (rows, tokens, 4096)
    counts = [
        prod(size // group for size, group in zip(launch.grid, launch.threadgroup, strict=True))
        for launch in launches
    ]
    assert counts == threadgroups


def test_a_step_with_the_most_guesses_is_taken() -> None:
    assert MOST_DEPTH + 1 <= MAX_TOKENS


def test_what_it_does_not_take() -> None:
    for tokens, tail in ((MAX_TOKENS + 1, 8), (3, 2)):
        args = arguments(mx.float32, tokens, DEMO, 8, tail=8, bodies=[3], tails=[0])
        args |= {name: args[name][:, :, :tail] for name in ("tail_keys", "tail_values")}
        with pytest.raises(UnsupportedError, match=f"{tokens} tokens for a tail of {tail}"):
            metal_decode_attention_several(**args)
    args = arguments(mx.float32, 2, DEMO, 8, tail=8, bodies=[3], tails=[0])
    with pytest.raises(UnsupportedError, match="a length for each row"):
        metal_decode_attention_several(**{**args, "tail_lengths": mx.array(0, mx.int32)})
    args = arguments(mx.float32, 2, HeadSizes(40, 1, 32), 8, tail=8, bodies=[3], tails=[0])
    with pytest.raises(UnsupportedError, match="40 query and"):
        metal_decode_attention_several(**args)
