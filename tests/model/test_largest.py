"""The few largest values against a full sort."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import device  # noqa: F401 - first
from model.largest import MOST, largest


@given(
    rows=st.integers(1, 3),
    length=st.sampled_from([1, 7, MOST, 4096, 4097, 4160, 6000, 20_001]),
    count=st.integers(1, MOST),
    different=st.sampled_from([1, 3, 50, 10**6]),
    masked=st.sampled_from([0.0, 0.5, 0.9999, 1.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_values_and_ids_are_those_of_a_stable_sort(
    rows: int, length: int, count: int, different: int, masked: float, seed: int
) -> None:
    """With many equal values, and with most of them minus infinity, as under a grammar's mask."""
    random = np.random.default_rng(seed)
    values = random.integers(-different, different, (rows, length)).astype(np.float32)
    values[random.random((rows, length)) < masked] = -np.inf
    wanted = np.argsort(-values, axis=-1, kind="stable")[:, :count]
    ids, found, maximum = largest(mx.array(values), count)
    assert np.array_equal(np.array(ids), wanted)
    assert np.array_equal(np.array(found), np.take_along_axis(values, wanted, -1))
    assert np.array_equal(np.array(maximum), values.max(-1))


@pytest.mark.parametrize("length", [100, 10_000])
def test_a_row_with_a_nan_has_a_nan_as_its_maximum(length: int) -> None:
    values = np.zeros((2, length), np.float32)
    values[1, length - 3] = np.nan
    _, _, maximum = largest(mx.array(values), 5)
    assert np.isnan(np.array(maximum)).tolist() == [False, True]


@pytest.mark.parametrize("count", [0, MOST + 1])
def test_a_count_that_cannot_be_found_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to {MOST}"):
        largest(mx.zeros((1, 8)), count)
