"""MXFP8 and MXFP4 against brute force: every code, every exponent, in float64."""

from __future__ import annotations

import hashlib
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model.config import QuantSpec
from model.convert.exponent import LOWEST, highest
from model.convert.grids import Grid, e2m1, e4m3
from model.convert.microscaling import pack, unpack
from model.convert.quantize import dequantize, quantize
from model.convert.recipe import AFFINE4, AFFINE8, MXFP4, MXFP8
from model.convert.rounding import bf16_values, nearest, to_odd

GRIDS = [e4m3(), e2m1()]
MODES = {"E4M3": MXFP8, "E2M1": MXFP4}
BOTH = pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: grid.name)


@st.composite
def groups(draw: st.DrawFn, largest: int = 0x7F7F) -> npt.NDArray[np.uint16]:
    """[1 to 4, 32] finite bfloat16 bits: any, or of like size so that exponents compete."""
    count = draw(st.integers(1, 4))
    anything = st.integers(0, largest)
    near = draw(st.integers(0, largest - 0x300))
    alike = st.integers(near, near + 0x300)
    magnitudes = draw(
        arrays(np.uint16, (count, 32), elements=draw(st.sampled_from([anything, alike])))
    )
    signs = draw(arrays(np.uint16, (count, 32), elements=st.sampled_from([0, 0x8000])))
    return (np.where(magnitudes & 0x7F80, magnitudes, 0) | signs).astype(np.uint16)


def brute_force(values: npt.NDArray[np.float64], grid: Grid, weights: Any) -> Any:
    """[exponents, groups] squared errors, every element by the nearest of all codes."""
    found = []
    for exponent in range(LOWEST, highest(grid) + 1):
        codes = np.ldexp(grid.values, exponent)
        above = np.searchsorted(codes, np.abs(values)).clip(1, len(codes) - 1)
        steps = [np.abs(np.abs(values) - codes[i]) for i in (above - 1, above)]
        found.append((np.square(np.minimum(*steps)) * weights).sum(axis=-1))
    return np.array(found)


def ceiling(values: npt.NDArray[np.float64], grid: Grid) -> npt.NDArray[np.int64]:
    """The smallest exponent at which nothing saturates."""
    _, exponents = np.frexp(np.abs(values).max(axis=-1) / grid.values[-1])
    fraction = np.ldexp(np.abs(values).max(axis=-1), -(exponents - 1)) <= grid.values[-1]
    return np.clip(exponents - fraction, LOWEST, highest(grid))


@BOTH
def test_codes_are_the_nearest_ties_to_even(grid: Grid) -> None:
    index = np.arange(100 << 7, 147 << 7)  # 2^-27 to 2^20
    exact = bf16_values(index.astype(np.uint16)).astype(np.float64)
    for part in np.array_split(np.arange(len(index)), 16):
        distances = np.abs(exact[part, None] - grid.values)
        least = distances.min(axis=1, keepdims=True)
        tied = distances == least
        assert (tied.sum(axis=1) <= 2).all()
        even = tied & (np.arange(len(grid.values)) % 2 == 0)
        expected = np.where(tied.sum(axis=1) == 2, even.argmax(axis=1), tied.argmax(axis=1))
        assert np.array_equal(grid.codes[index[part]], expected)
        assert np.array_equal(grid.errors[index[part]], np.square(least[:, 0]))
    assert not grid.codes[: 100 << 7].any()


def test_e4m3_means_what_mlx_means_by_it() -> None:
    codes = np.arange(127, dtype=np.uint8)
    assert np.array_equal(np.array(mx.from_fp8(mx.array(codes), mx.float32)), e4m3().values)
    assert e4m3().values[-1] == 448
    assert e2m1().values.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


@BOTH
@given(bits=groups(), seed=st.integers(0, 1 << 20), weighted=st.booleans())
def test_no_exponent_has_less_error(
    grid: Grid, bits: npt.NDArray[np.uint16], seed: int, weighted: bool
) -> None:
    weights = np.random.default_rng(seed).random(bits.shape) ** 4 if weighted else None
    values = bf16_values(bits).astype(np.float64)
    codes, scales = pack(bits, grid, weights)
    mine = unpack(codes, scales, grid).astype(np.float64)
    counted = 1.0 if weights is None else weights
    error = (np.square(values - mine) * counted).sum(axis=-1)
    all_errors = brute_force(values, grid, counted)
    assert (error <= all_errors.min(axis=0) * (1 + 1e-9)).all()
    at_ceiling = all_errors[ceiling(values, grid) - LOWEST, np.arange(len(values))]
    assert (error <= at_ceiling * (1 + 1e-9)).all()


@BOTH
@given(bits=groups(largest=0x7E00))
def test_mlx_dequantizes_to_the_same(grid: Grid, bits: npt.NDArray[np.uint16]) -> None:
    bits = np.where((bits & 0x7FFF) < 30 << 7, 0, bits).astype(np.uint16)  # no subnormal results
    spec = MODES[grid.name]
    parts, _ = quantize(bits, spec)
    there = mx.dequantize(
        mx.array(parts["weight"]),
        mx.array(parts["scales"]),
        group_size=spec.group_size,
        bits=spec.bits,
        mode=spec.mode,
        dtype=mx.float32,
    )
    assert np.array_equal(np.array(there), dequantize(parts, spec))


@BOTH
def test_quantizing_what_was_quantized_changes_nothing(grid: Grid) -> None:
    random = np.random.default_rng(3)
    bits = nearest(random.standard_normal((64, 32)).astype(np.float32))
    once = unpack(*pack(bits, grid), grid)
    assert np.array_equal(nearest(once), (once.view(np.uint32) >> 16))
    assert np.array_equal(unpack(*pack(nearest(once), grid), grid), once)


@BOTH
def test_zeros_infinities_and_the_smallest(grid: Grid) -> None:
    spec = MODES[grid.name]
    values = np.zeros((4, 32), np.float32)
    values[1, :3] = [np.inf, -np.inf, 3]
    values[2, 0] = np.inf
    values[3, :2] = [1e-39, -(2.0**-126)]  # below bfloat16's normals, and the smallest of them
    parts, infinities = quantize(nearest(values), spec)
    back = dequantize(parts, spec)
    assert infinities == 3
    assert not back[0].any()
    assert back[1, :3].tolist() == [3, -3, 3]
    assert back[2, 0] > 1e38
    assert not back[2, 1:].any()
    assert back[3, :2].tolist() == [0, -(2.0**-126)]


@pytest.mark.parametrize("spec", [MXFP8, MXFP4, AFFINE8, AFFINE4], ids=str)
def test_nan_is_an_error(spec: QuantSpec) -> None:
    values = np.ones((2, 128), np.float32)
    values[1, 77] = np.nan
    for form in (values, nearest(values)):
        with pytest.raises(FloatingPointError):
            quantize(form, spec)


@BOTH
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=32, max_size=32),
)
def test_float32_is_rounded_once(grid: Grid, numbers: list[float]) -> None:
    values = np.array([numbers], np.float32)
    values = np.where(np.abs(values) < 2.0**-100, 0, values).astype(np.float32)
    codes, scales = pack(to_odd(values), grid)
    exponent = int(scales[0]) - 127
    steps = np.abs(np.abs(values[0, :, None].astype(np.float64)) - np.ldexp(grid.values, exponent))
    back = np.abs(unpack(codes, scales, grid)[0].astype(np.float64) - values[0])
    assert np.array_equal(back, steps.min(axis=-1))


def test_importance_moves_the_error_to_where_it_costs_less() -> None:
    random = np.random.default_rng(5)
    bits = nearest(random.standard_normal((256, 128)).astype(np.float32))
    importance = np.where(np.arange(128) % 32 < 4, 50, 0.1).astype(np.float32)
    values = bf16_values(bits)

    def error(weigh: Any) -> float:
        parts, _ = quantize(bits, MXFP4, weigh)
        return float((np.square(dequantize(parts, MXFP4) - values) * importance).sum())

    assert error(importance) < 0.97 * error(None)


def test_experts_have_importances_of_their_own() -> None:
    random = np.random.default_rng(6)
    bits = nearest(random.standard_normal((3, 8, 64)).astype(np.float32))
    importance = (random.random((3, 64)) ** 6).astype(np.float32)
    together, _ = quantize(bits, MXFP4, importance)
    assert together["scales"].shape == (3, 8, 2)
    for i in range(3):
        alone, _ = quantize(bits[i], MXFP4, importance[i])
        assert all(np.array_equal(together[name][i], alone[name]) for name in alone)


@pytest.mark.parametrize("spec", [MXFP8, MXFP4, AFFINE8, AFFINE4], ids=str)
def test_the_bytes_are_the_same_everywhere(spec: QuantSpec) -> None:
    """Recorded on x86-64; whoever runs this elsewhere checks that machine."""
    state = np.arange(1, 128 * 256 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    spread = ((state >> np.uint64(33)) % np.uint64(0x0500)).astype(np.uint16)
    sign = ((state >> np.uint64(20)) & np.uint64(1)).astype(np.uint16) << 15
    bits = ((0x3A00 + spread) | sign).reshape(128, 256)
    importance = (1 + np.arange(256) % 7).astype(np.float32)
    digest = hashlib.sha256()
    for weigh in (None, importance):
        parts, _ = quantize(bits, spec, weigh)
        digest.update(b"".join(parts[name].tobytes() for name in sorted(parts)))
    assert digest.hexdigest()[:16] == RECORDED[spec]


RECORDED = {
    MXFP8: "840f09dbf2514052",
    MXFP4: "c68d1ef84782fa7e",
    AFFINE8: "92e04ee3dc120c8a",
    AFFINE4: "3f6bc9364258db3e",
}
