"""The kernels of decode attention, run on the CPU, against their twin."""

from functools import partial

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.decode_attention import (
    SPLIT_FROM,
    decode_attention,
    metal_decode_attention,
)
from model.kernels.metal import UnsupportedError
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import Draw, HeadSizes
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL, DEMO, ODD = HeadSizes(16, 2, 256), HeadSizes(4, 2, 64), HeadSizes(3, 1, 36)
TAIL = 256


def check(args: examples.Arguments) -> None:
    """What lies past the lengths is not finite, so that reading it shows."""
    poisoned = dict(args)
    for part, lengths in (("body", args["body_lengths"]), ("tail", args["tail_length"])):
        for kind in ("keys", "values"):
            buffer = args[f"{part}_{kind}"]
            places = mx.arange(buffer.shape[2])[:, None]
            filled = places < (lengths[:, None, None, None] if part == "body" else lengths)
            poisoned[f"{part}_{kind}"] = mx.where(filled, buffer, mx.nan).astype(buffer.dtype)
    agree(lambda **_: decode_attention(**_finite(_)), metal_decode_attention, poisoned)


def _finite(args: examples.Arguments) -> examples.Arguments:
    """For the twin, which multiplies what lies past the lengths by zero."""
    buffers = [name for name in args if name.endswith(("_keys", "_values"))]
    return {**args, **{name: mx.nan_to_num(args[name], nan=0.0) for name in buffers}}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [REAL, DEMO, ODD])
@pytest.mark.parametrize(("capacity", "tail_length"), [(0, 1), (0, 256), (256, 17), (768, 200)])
def test_short_contexts(dtype: mx.Dtype, sizes: HeadSizes, capacity: int, tail_length: int) -> None:
    check(examples.decode_attention(Draw(dtype), 2, sizes, capacity, TAIL, tail_length))


@pytest.mark.parametrize("parts", [1, 16])
def test_fewer_simdgroups(parts: int) -> None:
    args = examples.decode_attention(Draw(mx.float32), 2, DEMO, 256, TAIL, 100)
    agree(decode_attention, partial(metal_decode_attention, parts=parts), args)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [REAL, DEMO, ODD])
def test_long_contexts(dtype: mx.Dtype, sizes: HeadSizes) -> None:
    check(examples.decode_attention(Draw(dtype), 1, sizes, SPLIT_FROM, TAIL, 100))


@settings(max_examples=20)
@given(
    rows=st.integers(1, 16),
    sizes=st.sampled_from([DEMO, ODD]),
    capacity=st.sampled_from([0, 64]),
    tail_length=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_any_lengths(
    rows: int, sizes: HeadSizes, capacity: int, tail_length: int, seed: int
) -> None:
    check(examples.decode_attention(Draw(mx.float32, seed), rows, sizes, capacity, 8, tail_length))


@pytest.mark.parametrize("length", [0, 1, 3, 130, SPLIT_FROM])
@pytest.mark.parametrize("tail_length", [1, 8])
def test_a_long_body_of_any_length(length: int, tail_length: int) -> None:
    """Down to fewer keys than there are threadgroups to share them."""
    args = examples.decode_attention(Draw(mx.float32), 9, ODD, SPLIT_FROM, 8, tail_length)
    args["body_lengths"] = mx.array([length] * 8 + [77], mx.int32)
    check(args)


def test_the_longest_context() -> None:
    args = examples.decode_attention(Draw(mx.bfloat16), 1, HeadSizes(1, 1, 32), 131_072, TAIL, 256)
    args["body_lengths"] = mx.array([131_072], mx.int32)
    check(args)


def test_scores_that_would_overflow_an_exponential() -> None:
    args = examples.decode_attention(Draw(mx.float32), 2, DEMO, SPLIT_FROM, TAIL, 9)
    check({**args, "q": args["q"] * 1000.0})


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    for capacity in (64, SPLIT_FROM):
        args = examples.decode_attention(Draw(mx.float32), 3, DEMO, capacity, 8, 3)
        args["q"][1] = mx.nan
        out = metal_decode_attention(**args, runner=Recorder())
        assert mx.isnan(out).all(axis=(1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("rows", "capacity", "threadgroups"),
    [
        (1, 0, [16]),
        (1, 1536, [16]),
        (1, 2048, [32 * 2, 16]),
        (1, 131_072, [128 * 2, 16]),
        (16, 2048, [8 * 32, 16 * 16]),
    ],
)
def test_launches(rows: int, capacity: int, threadgroups: list[int]) -> None:
    launches = []

    def record(launch):
        launches.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in launch.outputs]

    def empty(*shape: int) -> mx.array:
        return mx.zeros(shape, mx.bfloat16)

    metal_decode_attention(
        empty(rows, 16, 1, 256),
        empty(rows, 2, capacity, 256),
        empty(rows, 2, capacity, 256),
        empty(rows, 2, TAIL, 256),
        empty(rows, 2, TAIL, 256),
        mx.zeros(rows, mx.int32),
        mx.array(1, mx.int32),
        1 / 16,
        empty(rows, 1, 4096),
        runner=record,
    )
    counts = []
    for launch in launches:
        count = 1
        for size, group in zip(launch.grid, launch.threadgroup, strict=True):
            count *= size // group
        counts.append(count)
    assert counts == threadgroups


def test_what_it_does_not_take() -> None:
    for sizes in (HeadSizes(40, 1, 32), HeadSizes(1, 1, 520)):
        args = examples.decode_attention(Draw(mx.float32), 1, sizes, 8, 8, 3)
        with pytest.raises(UnsupportedError, match="query and"):
            metal_decode_attention(**args)
    args = examples.decode_attention(Draw(mx.float32), 1, DEMO, 8, 8, 3)
    with pytest.raises(UnsupportedError, match="scalar"):
        metal_decode_attention(**{**args, "tail_length": args["tail_length"].reshape(1)})
