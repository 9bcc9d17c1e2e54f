"""Strides through views, against those of arrays that mlx has really made."""

import random
from math import prod

import mlx.core as mx
import pytest

from model.launches.graph import record
from model.launches.memory import Memory
from model.launches.metal import launches
from model.launches.stand_ins import StandIns


def viewed(seed):
    """A function of one array: up to eight views, one on the other."""

    def function(x):
        draw = random.Random(seed)
        for _ in range(draw.randrange(1, 9)):
            kind = draw.randrange(6)
            axis = draw.randrange(x.ndim)
            if kind == 0:
                order = list(range(x.ndim))
                draw.shuffle(order)
                x = x.transpose(order)
            elif kind == 1 and x.ndim < 5:
                x = mx.expand_dims(x, axis)
            elif kind == 2:
                start, step = draw.randrange(x.shape[axis]), draw.choice([1, 1, 2])
                index: list[slice] = [slice(None)] * x.ndim
                index[axis] = slice(start, None, step)
                x = x[tuple(index)]
            elif kind == 3 and x.shape[axis] % 2 == 0:
                x = mx.split(x, 2, axis=axis)[draw.randrange(2)]
            elif kind == 4 and x.ndim < 5:
                x = mx.broadcast_to(x[None], (draw.randrange(1, 4), *x.shape))
            else:
                x = x.reshape(_another_shape(x.shape, draw))
        return x

    return function


def _another_shape(shape, draw):
    """The same number of elements: two neighbours joined, or one cut in two."""
    if len(shape) > 1 and draw.random() < 0.5:
        at = draw.randrange(len(shape) - 1)
        return (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
    at = draw.randrange(len(shape))
    part = next((n for n in (2, 3) if shape[at] % n == 0), 1)
    return (*shape[:at], part, shape[at] // part, *shape[at + 1 :])


def really(function, x):
    """Strides, in elements, of the array that mlx makes."""
    y = function(x)
    mx.eval(y)
    lying = memoryview(y)
    return tuple(stride // lying.itemsize for stride in lying.strides or ())


@pytest.mark.parametrize("seed", range(150))
def test_views_lie_as_mlx_lays_them(seed):
    x = mx.arange(96, dtype=mx.float32).reshape(4, 2, 12)
    mx.eval(x)
    graph = record(viewed(seed), x, stand_ins=StandIns())
    memory = Memory.of(graph)
    found = launches(graph, memory)
    lying = memory.lying[graph.outputs[0]]
    real = really(viewed(seed), x)
    sized = [i for i, n in enumerate(lying.shape) if n > 1]
    assert [lying.strides[i] for i in sized] == [real[i] for i in sized]
    assert found or lying.size <= prod(x.shape)
    assert all(each.kind == "copy" for each in found)


@pytest.mark.parametrize("seed", range(150))
def test_a_reshape_is_counted_as_a_copy_where_mlx_copies(seed):
    """Active memory grows by the copies and by nothing else."""
    x = mx.arange(96 << 10, dtype=mx.float32).reshape(4, 2, 12 << 10)
    mx.eval(x)
    copies = launches(record(viewed(seed), x, stand_ins=StandIns()))
    mx.clear_cache()
    before = mx.get_active_memory()
    y = viewed(seed)(x)
    mx.eval(y)
    assert (mx.get_active_memory() > before) == bool(copies)
