"""The kernel of q/k norm and RoPE, run on the CPU, against its twin."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.metal import UnsupportedError
from model.kernels.qk_norm_rope import metal_qk_norm_rope, qk_norm_rope
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import Draw, HeadSizes
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL, DEMO, ODD = HeadSizes(16, 2, 256), HeadSizes(4, 2, 64), HeadSizes(6, 3, 36)
ROTARY = {REAL: 64, DEMO: 16, ODD: 14}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("sizes", [REAL, DEMO, ODD])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_agrees(dtype: mx.Dtype, sizes: HeadSizes, rows: int) -> None:
    # In float32 an angle itself is only as exact as its 24 bits: short positions tell more.
    args = examples.qk_norm_rope(Draw(dtype), rows, sizes, ROTARY[sizes], last=40)
    agree(qk_norm_rope, metal_qk_norm_rope, args, exact=(1, 3))


@settings(max_examples=12)
@given(
    rows=st.integers(1, 16),
    sizes=st.sampled_from([DEMO, ODD]),
    tail=st.sampled_from([1, 9, 256]),
    seed=st.integers(0, 10_000),
)
def test_positions_up_to_the_longest_context(
    rows: int, sizes: HeadSizes, tail: int, seed: int
) -> None:
    args = examples.qk_norm_rope(
        Draw(mx.float32, seed), rows, sizes, ROTARY[sizes], last=262_143, tail=tail
    )
    got = metal_qk_norm_rope(**args, runner=Recorder(seed))
    for ours, twin in zip(got, qk_norm_rope(**args), strict=True):
        # An angle of 262,143 has an error of 0.016 in float32.
        assert np.allclose(np.array(ours), np.array(twin), atol=0.1)


@pytest.mark.parametrize("place", [0, 7, 8, 19])
def test_only_the_new_place_of_the_tail_changes(place: int) -> None:
    args = examples.qk_norm_rope(Draw(mx.bfloat16), 2, DEMO, 16)
    args["tail_length"] = mx.array(place, mx.int32)
    got = metal_qk_norm_rope(**args, runner=Recorder())
    for name, new in (("tail_keys", got[2]), ("tail_values", got[3])):
        same = (new == args[name]).all(axis=(0, 1, 3)).tolist()
        assert same == [at != place for at in range(20)]


def test_a_position_of_its_own_for_every_row() -> None:
    args = examples.qk_norm_rope(Draw(mx.float32), 9, DEMO, 16)
    args["body_lengths"] = mx.arange(9, dtype=mx.int32) * 7
    agree(qk_norm_rope, metal_qk_norm_rope, args, exact=(1, 3))


@pytest.mark.parametrize("rotary_dims", [0, 64])
def test_no_and_all_dimensions_rotated(rotary_dims: int) -> None:
    args = examples.qk_norm_rope(Draw(mx.float32), 2, DEMO, rotary_dims, last=40)
    if rotary_dims:
        agree(qk_norm_rope, metal_qk_norm_rope, args)
        return
    here = metal_qk_norm_rope(**args, runner=Recorder())
    elsewhere = {**args, "body_lengths": args["body_lengths"] + 1000}
    there = metal_qk_norm_rope(**elsewhere, runner=Recorder())
    assert all(mx.array_equal(a, b) for a, b in zip(here, there, strict=True))


def test_one_launch_with_a_simdgroup_per_head_and_piece_of_tail() -> None:
    record = Recorder()
    args = examples.qk_norm_rope(Draw(mx.bfloat16), 5, REAL, 64, tail=256)
    metal_qk_norm_rope(**args, runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == (((18 + 2 * 32) * 32, 5, 1), (32, 1, 1))


def test_what_it_does_not_take() -> None:
    for rotary_dims in (7, 66):
        args = examples.qk_norm_rope(Draw(mx.float32), 1, DEMO, rotary_dims)
        with pytest.raises(UnsupportedError, match=f"{rotary_dims} rotary"):
            metal_qk_norm_rope(**args)
    args = examples.qk_norm_rope(Draw(mx.float32), 1, DEMO, 16)
    with pytest.raises(UnsupportedError, match=r"shape \(1,\)"):
        metal_qk_norm_rope(**{**args, "tail_length": args["tail_length"].reshape(1)})
    with pytest.raises(UnsupportedError, match="bfloat16"):
        metal_qk_norm_rope(**{**args, "tail_keys": args["tail_keys"].astype(mx.bfloat16)})
