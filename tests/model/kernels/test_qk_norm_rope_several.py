"""The kernel of q/k norm and RoPE for several tokens, run on the CPU, against its twin."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.metal import MAX_TOKENS, UnsupportedError
from model.kernels.qk_norm_rope import metal_qk_norm_rope
from model.kernels.qk_norm_rope_several import (
    metal_qk_norm_rope_several,
    qk_norm_rope_several,
)
from model.mtp_flight import PLACES
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import Draw, HeadSizes
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL, DEMO, ODD = HeadSizes(16, 2, 256), HeadSizes(4, 2, 64), HeadSizes(6, 3, 36)
ROTARY = {REAL: 64, DEMO: 16, ODD: 14}


def raw(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("sizes", "rows", "tokens"),
    [(REAL, 1, 2), (REAL, 3, 4), (DEMO, 16, 2), (DEMO, 2, 3), (ODD, 3, 4)],
)
def test_agrees(dtype: mx.Dtype, sizes: HeadSizes, rows: int, tokens: int) -> None:
    # In float32 an angle itself is only as exact as its 24 bits: short positions tell more.
    draw, rotary = Draw(dtype), ROTARY[sizes]
    args = examples.qk_norm_rope_several(draw, rows, tokens, sizes, rotary, last=40)
    agree(qk_norm_rope_several, metal_qk_norm_rope_several, args, exact=(1, 3))


def test_the_heads_own_buffers() -> None:
    args = examples.qk_norm_rope_several(Draw(mx.bfloat16), 2, 4, REAL, 64, last=40, tail=PLACES)
    args["tail_lengths"] = mx.array([PLACES - 4, 3], mx.int32)
    args["body_lengths"] = mx.array([0, 7], mx.int32)
    agree(qk_norm_rope_several, metal_qk_norm_rope_several, args, exact=(1, 3))


@settings(max_examples=16, deadline=None)
@given(
    rows=st.integers(1, 16),
    tokens=st.integers(1, MAX_TOKENS),
    sizes=st.sampled_from([DEMO, ODD]),
    tail=st.sampled_from([4, 9, 256]),
    seed=st.integers(0, 10_000),
)
def test_positions_up_to_the_longest_context(rows, tokens, sizes, tail, seed) -> None:
    args = examples.qk_norm_rope_several(
        Draw(mx.float32, seed), rows, tokens, sizes, ROTARY[sizes], last=262_143, tail=tail
    )
    got = metal_qk_norm_rope_several(**args, runner=Recorder(seed))
    for ours, twin in zip(got, qk_norm_rope_several(**args), strict=True):
        # An angle of 262,143 has an error of 0.016 in float32.
        assert np.allclose(np.array(ours), np.array(twin), atol=0.1)


@pytest.mark.parametrize(
    ("tokens", "first"), [(1, [0, 19]), (2, [7, 18]), (3, [15, 0]), (4, [6, 16])]
)
def test_only_the_new_places_of_each_row_change(tokens: int, first: list[int]) -> None:
    args = examples.qk_norm_rope_several(Draw(mx.bfloat16), 2, tokens, DEMO, 16)
    args["tail_lengths"] = mx.array(first, mx.int32)
    got = metal_qk_norm_rope_several(**args, runner=Recorder())
    for name, new in (("tail_keys", got[2]), ("tail_values", got[3])):
        same = (new == args[name]).all(axis=(1, 3)).tolist()
        assert same == [[not 0 <= at - row < tokens for at in range(20)] for row in first]


def test_no_place_past_the_end_is_written() -> None:
    args = examples.qk_norm_rope_several(Draw(mx.float32), 2, 3, DEMO, 16)
    args["tail_lengths"] = mx.array([18, 19], mx.int32)
    _, _, keys, values = metal_qk_norm_rope_several(**args, runner=Recorder())
    for row, first in enumerate([18, 19]):
        assert mx.array_equal(keys[row, :, :first], args["tail_keys"][row, :, :first])
        assert mx.array_equal(values[row, :, :first], args["tail_values"][row, :, :first])


@pytest.mark.parametrize("dtype", TYPES)
def test_one_token_is_the_kernel_of_one_token(dtype: mx.Dtype) -> None:
    args = examples.qk_norm_rope_several(Draw(dtype), 3, 1, REAL, 64)
    args["tail_lengths"] = mx.full((3,), 11, mx.int32)
    one = {name: args[name] for name in args if name != "tail_lengths"}
    one["tail_length"] = mx.array(11, mx.int32)
    got = metal_qk_norm_rope_several(**args, runner=Recorder())
    for ours, single in zip(got, metal_qk_norm_rope(**one, runner=Recorder()), strict=True):
        assert ours.shape == single.shape
        assert np.array_equal(raw(ours), raw(single))


@pytest.mark.parametrize("rotary_dims", [0, 64])
def test_no_and_all_dimensions_rotated(rotary_dims: int) -> None:
    args = examples.qk_norm_rope_several(Draw(mx.float32), 2, 2, DEMO, rotary_dims, last=40)
    if rotary_dims:
        agree(qk_norm_rope_several, metal_qk_norm_rope_several, args)
        return
    here = metal_qk_norm_rope_several(**args, runner=Recorder())
    elsewhere = {**args, "body_lengths": args["body_lengths"] + 1000}
    there = metal_qk_norm_rope_several(**elsewhere, runner=Recorder())
    assert all(mx.array_equal(a, b) for a, b in zip(here, there, strict=True))


def test_one_launch_with_a_simdgroup_per_token_and_head_and_piece_of_tail() -> None:
    record = Recorder()
    args = examples.qk_norm_rope_several(Draw(mx.bfloat16), 5, 2, REAL, 64, tail=256)
    metal_qk_norm_rope_several(**args, runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == (((2 * 18 + 2 * 32) * 32, 5, 1), (32, 1, 1))


def test_what_it_does_not_take() -> None:
    args = examples.qk_norm_rope_several(Draw(mx.float32), 1, MAX_TOKENS + 1, DEMO, 16)
    with pytest.raises(UnsupportedError, match=f"{MAX_TOKENS + 1} tokens"):
        metal_qk_norm_rope_several(**args)
    args = examples.qk_norm_rope_several(Draw(mx.float32), 1, 2, DEMO, 16)
    with pytest.raises(UnsupportedError, match=r"shape \(\)"):
        metal_qk_norm_rope_several(**{**args, "tail_lengths": mx.array(0, mx.int32)})
    with pytest.raises(UnsupportedError, match="7 rotary"):
        metal_qk_norm_rope_several(**{**args, "rotary_dims": 7})
