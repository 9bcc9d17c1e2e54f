"""Affine quantization: the form is MLX's, the error never more than its own."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import QuantSpec
from model.convert.quantize import Parts, dequantize, quantize, stored_bits
from model.convert.recipe import AFFINE4, AFFINE8
from model.convert.rounding import bf16_values, nearest

SPECS = pytest.mark.parametrize("spec", [AFFINE8, AFFINE4, QuantSpec(8, 32, "affine")], ids=str)


@st.composite
def matrices(draw: st.DrawFn) -> npt.NDArray[np.uint16]:
    """[4, 128] bfloat16 bits, of one sign or both, of like size or not, some of them zero."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    values = random.standard_normal((4, 128)) * draw(st.sampled_from([1e-4, 0.02, 1, 300]))
    values = values + draw(st.sampled_from([0, 0, 1, -5])) * values.std()
    values[:, :: draw(st.sampled_from([2, 7, 128]))] *= draw(st.sampled_from([0, 1, 20]))
    return nearest(values.astype(np.float32))


def mlx_values(parts: Parts, spec: QuantSpec) -> npt.NDArray[np.float32]:
    scales, biases = (
        mx.array(parts[name]).view(mx.bfloat16).astype(mx.float32) for name in ("scales", "biases")
    )
    weight = mx.array(parts["weight"])
    return np.array(mx.dequantize(weight, scales, biases, spec.group_size, spec.bits))


def errors(values: npt.NDArray[np.float32], bits: npt.NDArray[np.uint16], size: int) -> npt.NDArray:
    difference = values.astype(np.float64) - bf16_values(bits)
    return np.square(difference).reshape(-1, size).sum(axis=-1)


@SPECS
@given(bits=matrices())
def test_no_worse_than_mlx_in_any_group(spec: QuantSpec, bits: npt.NDArray[np.uint16]) -> None:
    parts, _ = quantize(bits, spec)
    array = mx.array(bits).view(mx.bfloat16)
    theirs = mx.quantize(array, spec.group_size, spec.bits, stream=mx.cpu)
    names = ("weight", "scales", "biases")
    assert [parts[name].shape for name in names] == [part.shape for part in theirs]
    weight, scales, biases = theirs
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    there = mx.dequantize(weight, scales, biases, spec.group_size, spec.bits)
    ours = errors(dequantize(parts, spec), bits, spec.group_size)
    assert (ours <= errors(np.array(there), bits, spec.group_size) * (1 + 1e-5) + 1e-30).all()


@SPECS
@given(bits=matrices())
def test_mlx_dequantizes_to_the_same(spec: QuantSpec, bits: npt.NDArray[np.uint16]) -> None:
    parts, _ = quantize(bits, spec)
    np.testing.assert_allclose(mlx_values(parts, spec), dequantize(parts, spec), rtol=1e-6)


@SPECS
def test_zeros_and_infinities(spec: QuantSpec) -> None:
    values = np.zeros((2, 128), np.float32)
    values[1, 0], values[1, 1], values[1, 2] = np.inf, -2, 1
    parts, infinities = quantize(values, spec)
    back = dequantize(parts, spec)
    assert infinities == 1
    assert not back[0].any()
    np.testing.assert_allclose(back[1, :3], [2, -2, 1], atol=2 / (1 << spec.bits) * 2)


def test_what_is_not_quantized_is_rounded_to_nearest() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, np.inf], np.float32)
    assert bf16_values(stored_bits(values)).tolist() == [1, 1, 1 + 2**-6, np.inf]
    with pytest.raises(FloatingPointError):
        stored_bits(np.array([np.nan], np.float32))
    with pytest.raises(FloatingPointError):
        stored_bits(np.array([0x7FC0], np.uint16))


def test_what_is_not_written_here_is_refused() -> None:
    with pytest.raises(ValueError, match="nvfp4"):
        quantize(np.ones((2, 64), np.float32), QuantSpec(4, 16, "nvfp4"))
    with pytest.raises(ValueError, match="48"):
        quantize(np.ones((2, 48), np.float32), AFFINE8)
