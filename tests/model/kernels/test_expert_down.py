"""The kernel of the experts' second half, run on the CPU, against its twin."""

from functools import partial

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import QuantSpec
from model.kernels.expert_down import expert_down, metal_expert_down
from model.kernels.metal import UnsupportedError
from model.quantized import ExpertLinear, QuantizedExpertLinear
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import AFFINE8, MXFP8, Draw, ExpertSizes
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
# Nine of the real model's 257, the shared one among them; here a random matrix for twelve.
REAL, DEMO = ExpertSizes(12, 9, 512, 2048), ExpertSizes(9, 3, 128, 192)
SMALL, WIDE = ExpertSizes(4, 2, 64, 37), ExpertSizes(3, 1, 1088, 50)
ODD = ExpertSizes(5, 4, 77, 19)  # plain weights only


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("spec", [None, MXFP8, AFFINE8])
@pytest.mark.parametrize("sizes", [REAL, DEMO, SMALL, WIDE])
def test_agrees(dtype: mx.Dtype, spec: QuantSpec | None, sizes: ExpertSizes) -> None:
    agree(expert_down, metal_expert_down, examples.expert_down(Draw(dtype), 1, sizes, spec))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("rows", [1, 16])
def test_odd_sizes_of_plain_weights(dtype: mx.Dtype, residual: bool, rows: int) -> None:
    args = examples.expert_down(Draw(dtype), rows, ODD, None, residual=residual)
    agree(expert_down, metal_expert_down, args)


@pytest.mark.parametrize("spec", [None, MXFP8])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_more_and_fewer_rows_of_a_threadgroup(spec: QuantSpec | None, rows: int) -> None:
    args = examples.expert_down(Draw(mx.bfloat16), 3, SMALL, spec)
    agree(expert_down, partial(metal_expert_down, rows=rows), args)


@settings(max_examples=12)
@given(
    rows=st.integers(1, 16),
    spec=st.sampled_from([None, MXFP8, AFFINE8]),
    sizes=st.sampled_from([DEMO, SMALL]),
    residual=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_any_number_of_tokens(
    rows: int, spec: QuantSpec | None, sizes: ExpertSizes, residual: bool, seed: int
) -> None:
    args = examples.expert_down(Draw(mx.float32, seed), rows, sizes, spec, residual=residual)
    agree(expert_down, metal_expert_down, args)


def test_every_e4m3_code_and_scale_is_read_as_mlx_reads_it() -> None:
    """One expert per code; row r has that code everywhere and the scale 2^(r - 127)."""
    codes = np.arange(256, dtype=np.uint32) * 0x01010101
    weight = mx.array(np.broadcast_to(codes[:, None, None], (256, 254, 8)).copy())
    scales = mx.array(np.broadcast_to(np.arange(254, dtype=np.uint8)[:, None], (256, 254, 1)))
    down = QuantizedExpertLinear(weight, mx.contiguous(scales), None, MXFP8)
    dense = mx.dequantize(weight, scales=scales, group_size=32, bits=8, mode="mxfp8")
    want = np.array(dense.astype(mx.float32))[:, :, 0]
    # SiLU of 32 is 32 in float32, so the first activation is one and the others are zero.
    gate_up = mx.zeros((256, 1, 64))
    gate_up[:, :, 0], gate_up[:, :, 32] = 32.0, 1 / 32
    experts = mx.arange(256, dtype=mx.uint32)[:, None]
    got = metal_expert_down(gate_up, down, experts, mx.ones((256, 1)), runner=Recorder())
    # At the ends of the range mlx's bfloat16 and a float32 product differ: there a kernel may be
    # subnormal or infinite where the other is not.
    inside = slice(24, 230)
    assert np.array_equal(np.array(got)[:, inside], want[:, inside], equal_nan=True)
    assert np.isnan(np.array(got)[[127, 255]]).all()


def test_one_launch_with_a_simdgroup_per_expert() -> None:
    record = Recorder()
    args = examples.expert_down(Draw(mx.bfloat16), 2, DEMO, MXFP8)
    metal_expert_down(**args, runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == ((96, 24, 2), (96, 1, 1))


def test_a_token_that_is_not_finite_stays_so_alone() -> None:
    args = examples.expert_down(Draw(mx.float32), 3, DEMO, MXFP8)
    args["weights"][1] = mx.nan
    out = metal_expert_down(**args, runner=Recorder())
    assert mx.isnan(out).all(axis=1).tolist() == [False, True, False]


def test_what_it_does_not_take() -> None:
    args = examples.expert_down(Draw(mx.float32), 1, SMALL, QuantSpec(4, 32, "mxfp4"))
    with pytest.raises(UnsupportedError, match="mxfp4"):
        metal_expert_down(**args)
    args = examples.expert_down(Draw(mx.float32), 1, SMALL, None)
    with pytest.raises(UnsupportedError, match="bfloat16"):
        metal_expert_down(**{**args, "weights": args["weights"].astype(mx.bfloat16)})
    many = mx.zeros((1, 33), mx.uint32)
    with pytest.raises(UnsupportedError, match="33 experts"):
        metal_expert_down(mx.zeros((1, 33, 8)), ExpertLinear(mx.zeros((40, 4, 4))), many, many)
