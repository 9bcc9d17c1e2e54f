"""The fusion that is modelled, against the one that mx.compile does."""

import contextlib
import random
import re
from collections import Counter

import mlx.core as mx
import pytest

from model.launches.fusion import FUSED, MAX_ARRAYS, MAX_DEPTH, fused
from model.launches.graph import record
from model.launches.stand_ins import StandIns
from model.launches.trees import arrays_in


class NoStandIns(StandIns):
    """As the CPU runs it, so that mx.compile can be asked about the same graph."""

    @contextlib.contextmanager
    def installed(self):
        yield


def modelled(function, *inputs):
    graph = fused(record(function, *inputs, stand_ins=NoStandIns()))
    return Counter(
        "Compiled" + "".join(node.arguments) if node.name == FUSED else node.name
        for node in graph.nodes
        if node.name != "Broadcast"
    )


def compiled(function, *inputs, tmp_path):
    mx.eval(inputs)
    results = arrays_in(mx.compile(function)(*inputs))
    mx.export_to_dot(str(tmp_path / "graph.dot"), *results)
    labels = re.findall(r'label ="([^"]+)"', (tmp_path / "graph.dot").read_text())
    # A reduction says there which it is; in an exported graph all are called Reduce.
    return Counter("Reduce" if x == "Sum" else x for x in labels if x != "Broadcast")


def mixed(seed):
    """A function of 5 to 120 random operations over arrays that broadcast with one another."""

    def function(x, y, z):
        draw = random.Random(seed)
        pool = [x, y, z]
        for _ in range(draw.randrange(5, 120)):
            a, b = draw.choice(pool[-6:] + pool[:2]), draw.choice(pool[-6:])
            kind = draw.randrange(10)
            if kind <= 3:
                pool.append(a + b if kind else a * b)
            elif kind == 4:
                pool.append(mx.exp(a))
            elif kind == 5:
                pool.append(mx.where(a > 0, a, b))
            elif kind == 6:
                pool.append(mx.broadcast_to(mx.sum(a, axis=-1, keepdims=True), (4, 8)))
            elif kind == 7:
                pool.append(mx.softmax(a, axis=-1) * 2.0)
            elif kind == 8:
                pool.append(mx.stop_gradient(mx.sigmoid(a)).reshape(a.shape))
            else:
                pool.append(mx.maximum(a, 0.5).astype(draw.choice([mx.float16, mx.float32])))
        return [draw.choice(pool[3:]) for _ in range(draw.randrange(1, 4))] + [pool[-1]]

    return function


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_fuse_as_mx_compile_fuses_them(seed, tmp_path):
    inputs = mx.ones((4, 8)), mx.ones((8,)), mx.ones((4, 1))
    real = compiled(mixed(seed), *inputs, tmp_path=tmp_path)
    assert modelled(mixed(seed), *inputs) == real
    assert real


@pytest.mark.parametrize("length", [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 3 * MAX_DEPTH])
def test_a_chain_is_cut_at_the_same_depth(length, tmp_path):
    def chain(x):
        for _ in range(length):
            x = mx.exp(x)
        return x

    real = compiled(chain, mx.ones((4,)), tmp_path=tmp_path)
    assert modelled(chain, mx.ones((4,))) == real
    assert sum(real.values()) == -(-length // MAX_DEPTH)


@pytest.mark.parametrize("count", [MAX_ARRAYS - 2, MAX_ARRAYS, MAX_ARRAYS + 1, 60])
def test_many_inputs_are_shared_out_in_the_same_way(count, tmp_path):
    def tree(*arrays):
        level = list(arrays)
        while len(level) > 1:
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [a * b for a, b in pairs] + level[len(level) // 2 * 2 :]
        return level[0]

    inputs = [mx.ones((4,)) for _ in range(count)]
    assert modelled(tree, *inputs) == compiled(tree, *inputs, tmp_path=tmp_path)


def test_what_is_returned_leaves_the_kernel_only_in_its_shape(tmp_path):
    def function(x, y):
        small = mx.exp(y)
        return small, small + x, mx.sigmoid(small + x) * 2

    inputs = mx.ones((4, 8)), mx.ones((8,))
    real = compiled(function, *inputs, tmp_path=tmp_path)
    assert modelled(function, *inputs) == real
    assert real["Exp"] == 1  # of another shape: not in the kernel of what reads it
