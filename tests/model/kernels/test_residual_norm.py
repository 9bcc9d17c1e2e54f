"""The kernel of residual and norm, run on the CPU, against its twin."""

import mlx.core as mx
import pytest

from model.kernels.metal import UnsupportedError
from model.kernels.residual_norm import MAX_HIDDEN, add_rms_norm, metal_add_rms_norm
from tests.model.kernels import examples
from tests.model.kernels.comparing import TYPES, agree
from tests.model.kernels.examples import Draw
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("hidden", [1, 33, 192, 2048, 5000])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (16, 1), (2, 3)])
def test_agrees(dtype: mx.Dtype, hidden: int, rows: int, tokens: int) -> None:
    args = examples.residual_norm(Draw(dtype), rows, hidden, tokens)
    agree(add_rms_norm, metal_add_rms_norm, args, exact=(0,))


def test_one_launch_and_a_threadgroup_per_row() -> None:
    record = Recorder()
    metal_add_rms_norm(**examples.residual_norm(Draw(mx.bfloat16), 3, 2048), runner=record)
    (launch,) = record.launches
    assert launch.grid[0] // launch.threadgroup[0] == 3


def test_large_and_small_values() -> None:
    args = examples.residual_norm(Draw(mx.float32), 2, 100)
    for factor in (1e-10, 1e8):
        scaled = {**args, "x": args["x"] * factor, "delta": args["delta"] * factor}
        agree(add_rms_norm, metal_add_rms_norm, scaled, exact=(0,))


def test_a_row_that_is_not_finite_stays_so_alone() -> None:
    args = examples.residual_norm(Draw(mx.float32), 3, 64)
    args["x"][1, 0, 5] = mx.nan
    _, normed = metal_add_rms_norm(**args, runner=Recorder())
    assert mx.isnan(normed).all(axis=(1, 2)).tolist() == [False, True, False]


def test_what_it_does_not_take() -> None:
    args = examples.residual_norm(Draw(mx.float32), 1, 64)
    with pytest.raises(UnsupportedError, match="one type"):
        metal_add_rms_norm(**{**args, "delta": args["delta"].astype(mx.bfloat16)})
    with pytest.raises(UnsupportedError, match="wide"):
        metal_add_rms_norm(**examples.residual_norm(Draw(mx.float32), 1, MAX_HIDDEN + 1))
