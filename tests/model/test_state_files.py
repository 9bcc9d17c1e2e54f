"""States as bytes and back: bit for bit, in bounded pieces, and never from anything else."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import state_files
from model.state import KVSpan, RecurrentSnapshot
from model.state_files import TensorBytes, read_snapshot, read_span, tensor_pieces, tensor_specs


def bits(array: mx.array) -> bytes:
    return bytes(memoryview(mx.contiguous(array.reshape(-1)).view(mx.uint8)))  # type: ignore[arg-type]


def random_bits(shape: tuple[int, ...], dtype: mx.Dtype, seed: int) -> mx.array:
    """Any bit pattern: NaN, infinities, denormals and negative zeros too."""
    size = int(np.prod(shape)) * dtype.size
    raw = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return mx.array(raw).view(dtype).reshape(shape)


def tensors(state: KVSpan | RecurrentSnapshot) -> dict[str, TensorBytes]:
    data = memoryview(b"".join(tensor_pieces(state)))
    found: dict[str, TensorBytes] = {}
    at = 0
    for spec in tensor_specs(state):
        found[spec.name] = TensorBytes(spec.dtype, spec.shape, data[at : at + spec.nbytes])
        at += spec.nbytes
    assert at == len(data)
    return found


def same(left: tuple[mx.array, ...], right: tuple[mx.array, ...]) -> bool:
    return len(left) == len(right) and all(
        (a.dtype, a.shape, bits(a)) == (b.dtype, b.shape, bits(b))
        for a, b in zip(left, right, strict=True)
    )


dtypes = st.sampled_from([mx.float32, mx.bfloat16, mx.float16])


@settings(max_examples=40)
@given(dtypes, st.integers(1, 3), st.integers(1, 70), st.integers(0, 99))
def test_spans_come_back_bit_for_bit(dtype: mx.Dtype, layers: int, length: int, seed: int):
    arrays = [random_bits((1, 2, length, 8), dtype, seed + i) for i in range(2 * layers)]
    span = KVSpan(tuple(arrays[:layers]), tuple(arrays[layers:]), length)
    back = read_span(tensors(span), length)
    assert back.length == length
    assert same(back.keys, span.keys)
    assert same(back.values, span.values)
    assert back.nbytes == span.nbytes


@settings(max_examples=40)
@given(dtypes, st.integers(1, 3), st.integers(1, 10**6), st.integers(0, 99))
def test_snapshots_come_back_bit_for_bit(dtype: mx.Dtype, layers: int, position: int, seed: int):
    snapshot = RecurrentSnapshot(
        tuple(random_bits((1, 3, 5), dtype, seed + i) for i in range(layers)),
        tuple(random_bits((1, 2, 4, 4), mx.float32, seed + 9 + i) for i in range(layers)),
        position,
    )
    back = read_snapshot(tensors(snapshot), position)
    assert back.position == position
    assert same(back.conv_tails, snapshot.conv_tails)
    assert same(back.recurrent, snapshot.recurrent)


def test_a_view_of_a_larger_array_is_stored_as_it_reads():
    whole = random_bits((1, 4, 30, 6), mx.bfloat16, 1)
    key, value = whole[:, 1:3, 5:25], whole[:, 3:0:-1, 25:5:-1]
    back = read_span(tensors(KVSpan((key,), (value,), 20)), 20)
    assert same(back.keys, (key,))
    assert same(back.values, (value,))


def test_pieces_are_small_and_made_on_demand(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state_files, "PIECE", 1000)
    key, value = (random_bits((1, 1, 100, 8), mx.float32, seed) for seed in (1, 2))
    pieces = tensor_pieces(KVSpan((key,), (value,), 100))
    first = next(pieces)
    assert first == bits(key)[:1000]
    rest = list(pieces)
    assert max(map(len, rest)) <= 1000
    assert b"".join([first, *rest]) == bits(key) + bits(value)


def test_a_type_that_no_file_can_hold_is_refused():
    array = mx.zeros((1, 1, 2, 4), mx.complex64)
    with pytest.raises(ValueError, match=r"keys\.0"):
        tensor_specs(KVSpan((array,), (array,), 2))


def test_other_tensors_are_no_state():
    key = random_bits((1, 1, 4, 8), mx.float32, 1)
    stored = tensors(KVSpan((key,), (key,), 4))
    for broken, length in (
        (stored, 5),
        ({}, 4),
        ({"keys.0": stored["keys.0"]}, 4),
        (stored | {"keys.0": stored["keys.0"]._replace(shape=(4, 8))}, 4),
        (stored | {"keys.0": stored["keys.0"]._replace(dtype="I64")}, 4),
        (stored | {"keys.0": stored["keys.0"]._replace(data=memoryview(b"1234"))}, 4),
    ):
        with pytest.raises(ValueError, match=r"not keys|not a type|bytes for"):
            read_span(broken, length)
        with pytest.raises(ValueError, match="convolution"):
            read_snapshot(broken, length)
