"""The router's kernel, run on the CPU, against its twin."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.metal import UnsupportedError
from model.kernels.router import metal_router_top_k, router_top_k
from tests.model.kernels.examples import Draw
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
TYPES = [mx.float32, mx.bfloat16]
SIZES = [(256, 8), (8, 2), (1, 1), (33, 32), (100, 7), (1000, 10)]


def check(logits: mx.array, k: int, shared: bool, seed: int = 1) -> None:
    experts, weights = metal_router_top_k(logits, k, shared=shared, runner=Recorder(seed))
    want_experts, want_weights = router_top_k(logits, k, shared=shared)
    assert experts.dtype == want_experts.dtype
    assert experts.tolist() == want_experts.tolist()
    assert np.allclose(np.array(weights), np.array(want_weights), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("count", "k"), SIZES)
@pytest.mark.parametrize("rows", [1, 16])
def test_agrees(dtype: mx.Dtype, shared: bool, count: int, k: int, rows: int) -> None:
    check(Draw(dtype, count).normal(rows, count + shared, scale=3), k, shared)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 16),
    size=st.sampled_from(SIZES[:4]),
    levels=st.integers(1, 6),
    shared=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_ties_go_to_the_lower_number(
    rows: int, size: tuple[int, int], levels: int, shared: bool, seed: int
) -> None:
    count, k = size
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, levels, (rows, count + shared)).astype(np.float32) - 1
    check(mx.array(logits * 0.5), k, shared, seed)


@pytest.mark.parametrize("special", [np.nan, -np.nan, np.inf, -np.inf, -0.0])
@pytest.mark.parametrize("count_of_them", [1, 5, 256])
def test_special_numbers_never_give_an_expert_that_does_not_exist(
    special: float, count_of_them: int
) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(3, 257)).astype(np.float32)
    logits[1, rng.choice(256, count_of_them, replace=False)] = special
    logits[2, :20] = 0.0
    check(mx.array(logits), 8, True)


def test_a_row_of_nothing_but_nan_weighs_nan() -> None:
    experts, weights = metal_router_top_k(mx.full((1, 256), mx.nan), 8, runner=Recorder())
    assert experts.tolist() == [list(range(8))]
    assert mx.isnan(weights).all()


def test_one_simdgroup_per_row() -> None:
    record = Recorder()
    metal_router_top_k(Draw(mx.float32).normal(5, 256), 8, runner=record)
    (launch,) = record.launches
    assert (launch.grid, launch.threadgroup) == ((160, 1, 1), (32, 1, 1))


@pytest.mark.parametrize(("count", "k"), [(2000, 8), (40, 33), (4, 5)])
def test_what_it_does_not_take(count: int, k: int) -> None:
    with pytest.raises(UnsupportedError, match=f"{k} of {count}"):
        metal_router_top_k(Draw(mx.float32).normal(1, count), k)
