"""Launches of small functions, against numbers counted by hand in MLX's Metal source."""

from typing import Any

import mlx.core as mx
import pytest

from model.launches.counts import command_buffers, count_compiled
from model.launches.fusion import fused
from model.launches.graph import record
from model.launches.metal import launches
from model.launches.sizes import sort_launches
from model.launches.stand_ins import StandIns, blank


def count(function, *inputs, compiled=False, stand_ins=None):
    """Each launch's kind, copies said apart."""
    graph = record(function, *inputs, stand_ins=stand_ins or StandIns())
    found = []
    for each in launches(fused(graph) if compiled else graph):
        found += ["copy"] * each.copies + [each.kind] * each.kernels
    return found


def of(*shape, dtype=mx.bfloat16):
    return blank(shape, dtype)


def test_views_are_free_and_a_reshape_that_must_move_elements_is_a_copy():
    def free(x):
        y = x.reshape(4, 2, 8).transpose(1, 0, 2)[:, 1:3]
        return mx.broadcast_to(y[:, :, None], (2, 2, 5, 8)), mx.split(x, 2, axis=-1), x.flatten()

    assert count(free, of(4, 16)) == []
    assert count(lambda x: x.T.reshape(-1), of(4, 16)) == ["copy"]
    assert count(lambda x: x.T.reshape(-1), of(1, 16)) == []  # lies in a row either way
    assert count(lambda x: x[:, :8].reshape(-1), of(4, 16)) == ["copy"]


def test_elementwise_chains_are_one_launch_each_inside_mx_compile_only():
    def gated(x, y):
        return x * mx.sigmoid(x) * y + 1

    assert count(gated, of(8), of(8)) == ["elementwise"] * 4
    assert count(gated, of(8), of(8), compiled=True) == ["fused elementwise"]


def test_a_norm_between_two_chains():
    def layer(x, delta, weight):
        h = x + delta
        return h, mx.fast.rms_norm(h, weight, 1e-6) * 2 + 1

    inputs = of(1, 1, 64), of(1, 1, 64), of(64)
    found = count(layer, *inputs, compiled=True)
    assert found == ["elementwise", "norm", "fused elementwise"]


def test_a_norm_copies_rows_that_do_not_lie_together():
    def halves(x, weight):
        q, gate = mx.split(x.reshape(1, 1, 4, 16), 2, axis=-1)
        return mx.fast.rms_norm(q, weight, 1e-6), gate

    assert count(halves, of(1, 1, 64), of(8)) == ["copy", "norm"]
    assert count(lambda x, w: mx.fast.rms_norm(x, w, 1e-6), of(1, 4, 8), of(8)) == ["norm"]


def test_weights_of_another_type_are_cast_at_every_step():
    found = count(lambda x, w: mx.fast.rms_norm(x, w, 1e-6), of(4, 8, dtype=mx.float32), of(8))
    assert found == ["elementwise", "norm"]


def rope(x, dims=8):
    return mx.fast.rope(x, dims, traditional=False, base=1e4, scale=1.0, offset=7)


def test_a_partial_rotation_works_in_a_copy_unless_it_is_the_last_to_read():
    assert count(rope, of(1, 2, 1, 16)) == ["copy", "rope"]
    assert count(lambda x: rope(x, 16), of(1, 2, 1, 16)) == ["rope"]
    assert count(lambda x: rope(x * x), of(1, 2, 1, 16)) == ["elementwise", "rope"]
    kept = count(lambda x: [y := x * x, rope(y)], of(1, 2, 1, 16))
    assert kept == ["elementwise", "copy", "rope"]


def attend(q, k, v):
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=0.1)


@pytest.mark.parametrize(("keys", "passes"), [(1023, 1), (1024, 2), (100_000, 2)])
def test_attention_takes_a_second_pass_over_many_keys(keys, passes):
    found = count(attend, of(1, 16, 1, 64), of(1, 2, keys, 64), of(1, 2, keys, 64))
    assert found == ["attention"] * passes


def test_attention_reads_keys_in_a_longer_buffer_where_they_lie():
    def cut(q, k, v):
        return attend(q, k[:, :, :100], v[:, :, :100])

    assert count(cut, of(1, 4, 1, 64), of(1, 2, 256, 64), of(1, 2, 256, 64)) == ["attention"]
    two, three = of(2, 2, 256, 64), of(2, 3, 256, 64)
    assert count(cut, of(2, 4, 1, 64), two, two) == ["attention"]
    some_heads = count(lambda q, k, v: attend(q, k[:, :2], v), of(2, 4, 1, 64), three, two)
    assert some_heads == ["copy", "attention"]


@pytest.mark.parametrize(
    ("length", "expected"), [(16, 1), (256, 1), (2048, 1), (2049, 4), (4097, 6), (248_320, 16)]
)
def test_sorts_take_a_pass_for_each_doubling_of_the_blocks(length, expected):
    assert sort_launches(length) == expected
    found = count(lambda x: mx.argpartition(x, kth=-8, axis=-1), of(1, length))
    assert found == ["sort"] * expected


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((64, 64), None, 1),  # 4,096 numbers: one threadgroup
        ((64, 65), None, 2),
        ((3, 5000), 1, 1),
        ((8, 2048), 0, 1),  # a short column
        ((300, 2048), 0, 2),  # a long one, in two passes
        ((2000, 8), 0, 2),
        ((40, 2048), 0, 1),
    ],
)
def test_reductions(shape, axis, expected):
    found = count(lambda x: mx.sum(x, axis=axis), of(*shape, dtype=mx.float32))
    assert found == ["reduction"] * expected


def test_a_slice_is_updated_in_place_only_where_nobody_else_holds_the_array():
    def fixed(x, part):
        return mx.slice_update(x, part, mx.array([3]), axes=(0,))

    inputs = of(8, 4), of(1, 4)
    assert count(fixed, *inputs) == ["copy"] + ["slice update"] * 2  # where, then what
    own = count(lambda x, part: fixed(x * 2, part), *inputs)
    assert own == ["elementwise", "slice update", "slice update"]

    def written(x, part):
        x = x * 2
        x[3:4] = part
        return x

    assert count(written, *inputs) == ["elementwise", "slice update"]


def test_a_concatenation_launches_once_for_each_part_that_is_not_empty():
    parts = of(1, 4), of(2, 4), of(0, 4)
    assert count(lambda *x: mx.concatenate(list(x)), *parts) == ["concatenation"] * 2


@pytest.mark.parametrize("mode", ["affine", "mxfp8"])
def test_a_quantized_product_is_one_launch(mode):
    spec = {"mode": mode, "bits": 8, "group_size": 64 if mode == "affine" else 32}
    weight, scales = of(96, 32, dtype=mx.uint32), of(96, 4, dtype=mx.uint8)
    biases = None
    if mode == "affine":
        scales, biases = of(96, 2), of(96, 2)

    def product(x):
        return mx.quantized_matmul(x, weight, scales, biases, transpose=True, **spec)

    assert count(product, of(1, 1, 128)) == ["quantized product"]
    assert count(lambda x: product(x[:, :128]), of(3, 256)) == ["copy", "quantized product"]
    # Thirteen rows are a matrix product, split along the inner axis where the outputs are few.
    assert count(product, of(12, 128)) == ["quantized product"]
    assert count(product, of(13, 128)) == ["quantized product"] * 2


def test_a_gather_of_experts_by_the_way_its_input_was_made():
    weight, scales = of(4, 96, 32, dtype=mx.uint32), of(4, 96, 4, dtype=mx.uint8)
    left = mx.zeros((1, 2), mx.uint32)
    mx.eval(left)

    def gathered(x, experts, lhs_indices=None):
        return mx.gather_qmm(
            x, weight, scales, lhs_indices=lhs_indices, rhs_indices=experts, mode="mxfp8"
        )

    inputs = of(1, 128), of(1, 2, dtype=mx.uint32)
    expanded = count(lambda x, e: gathered(mx.expand_dims(x, (1, 2)), e), *inputs)
    # mx makes the missing indices by arange; an axis put in by expand_dims has stride 1.
    assert sorted(expanded) == ["copy", "fill", "quantized product of experts"]
    reshaped = count(lambda x, e: gathered(x.reshape(1, 1, 1, 128), e, left), *inputs)
    assert reshaped == ["quantized product of experts"]


def test_products():
    weight = of(96, 64)
    assert count(lambda x: x @ weight.T, of(1, 1, 64)) == ["product"]
    assert count(lambda x, y: x @ y.swapaxes(-1, -2), of(1, 2, 8, 64), of(1, 2, 300, 64)) == [
        "product"
    ]
    dot = count(lambda x, y: x @ y, of(1, 64), of(64, 1))
    assert dot == ["product"] * 3  # partial sums, their sum, and its type
    strided = count(lambda x: x[:, ::2] @ weight.T, of(1, 128))
    assert strided == ["copy", "product"]


def test_a_custom_kernel_copies_what_does_not_lie_in_a_row():
    def function(x, **settings):
        kernel: Any = mx.fast.metal_kernel("k", ["x"], ["y"], source="")
        (y,) = kernel(
            inputs=[x], grid=(1, 1, 1), threadgroup=(1, 1, 1),
            output_shapes=[(4,)], output_dtypes=[mx.float32], **settings,
        )  # fmt: skip
        return y + 1

    assert count(function, of(4, 8)) == ["kernel k", "elementwise"]
    assert count(lambda x: function(x.T), of(4, 8)) == ["copy", "kernel k", "elementwise"]
    filled = count(lambda x: function(x, init_value=0.0), of(4, 8))
    assert filled == ["kernel k", "kernel k", "elementwise"]


def test_a_function_compiled_by_itself_is_counted_by_itself():
    def function(x, y):
        return mx.compile(lambda a, b: mx.exp(a) * b + 1)(x, y) + x

    stand_ins = StandIns(count_compiled=count_compiled)
    found = count(function, of(8), of(8), stand_ins=stand_ins)
    assert found == ["compiled <lambda>", "elementwise"]
    assert count(function, of(8), of(8), compiled=True) == ["fused elementwise"]


def test_contiguous_copies_a_small_part_of_a_large_buffer():
    assert count(lambda x: mx.contiguous(x.T), of(4, 8)) == ["copy"]
    assert count(lambda x: mx.contiguous(x), of(4, 8)) == []
    assert count(lambda x: mx.contiguous(x[:1]), of(4, 8)) == []
    assert count(lambda x: mx.contiguous(x[:1]), of(4, 8192)) == ["copy"]


def test_what_is_not_known_is_said():
    with pytest.raises(ValueError, match="FFT"):
        count(lambda x: mx.fft.rfft(x), mx.zeros((16,)))


def command_buffers_of(function, *inputs, **limits):
    return command_buffers(launches(record(function, *inputs, stand_ins=StandIns())), **limits)


def test_a_command_buffer_ends_past_so_many_launches():
    def chain(x):
        for _ in range(12):
            x = mx.exp(x)
        return x

    limits = {"operations": 4, "megabytes": 50}
    assert command_buffers_of(chain, of(8), **limits) == 3  # after 5, 10, and the rest
    assert command_buffers_of(chain, of(8), operations=12, megabytes=50) == 1
    assert command_buffers_of(lambda x: x.T, of(8, 8), **limits) == 0


def test_a_command_buffer_ends_past_so_many_elements_that_are_new_to_it():
    weights = [of(1 << 11, 1 << 10, dtype=mx.uint8) for _ in range(3)]  # 2 "MB" each, of any type

    def thrice(x):
        products = [x @ w.astype(mx.bfloat16) for w in weights]
        again = [x @ w.astype(mx.bfloat16) for w in weights]
        return products + again

    def same(x):
        return [mx.exp(weights[0]) for _ in range(6)] + [x]

    x = of(1, 1 << 11)
    assert command_buffers_of(thrice, x, operations=1000, megabytes=10_000) == 1
    assert command_buffers_of(thrice, x, operations=1000, megabytes=3) > 2
    once = command_buffers_of(same, x, operations=1000, megabytes=40)
    assert once == 1
