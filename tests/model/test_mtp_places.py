"""Columns put together, and picked from."""

import mlx.core as mx
import pytest

from model.mtp_places import at, choose, numbers, stacked


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_stacked_is_mx_stack(count: int, shape: tuple[int, ...]) -> None:
    columns = [mx.arange(6)[: 3 * len(shape)].reshape(shape) + 10 * n for n in range(count)]
    for dtype in (mx.int32, mx.uint32):
        ours = stacked([column.astype(dtype) for column in columns])
        assert ours.dtype == dtype
        assert mx.array_equal(ours, mx.stack(columns, axis=1))


def test_each_row_at_its_place() -> None:
    columns = [mx.arange(6).reshape(3, 2) + 10 * n for n in range(3)]
    place = mx.array([2, 0, 1], mx.int32)
    wanted = [[20, 21], [2, 3], [14, 15]]
    assert choose(columns, place).tolist() == at(stacked(columns), place).tolist() == wanted
    assert numbers(3).tolist() == [0, 1, 2]
