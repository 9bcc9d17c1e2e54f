"""The kernel of the few largest logits, run on the CPU, against its twin."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels.metal import UnsupportedError
from model.kernels.vocabulary_top_k import metal_vocabulary_top_k, vocabulary_top_k
from tests.model.kernels import examples
from tests.model.kernels.examples import Arguments, Draw
from tests.model.kernels.metal_on_cpu import Recorder, needs_compiler

pytestmark = needs_compiler
REAL = 248_320


def check(args: Arguments, *, seed: int = 1, simdgroups: int = 8, nan_rows: tuple = ()) -> None:
    """Bit by bit: nothing is computed, but for random numbers."""
    found = metal_vocabulary_top_k(**args, simdgroups=simdgroups, runner=Recorder(seed))
    wanted = vocabulary_top_k(**args)
    assert mx.isnan(found[2]).tolist() == [n in nan_rows for n in range(args["logits"].shape[0])]
    assert np.array_equal(np.array(mx.isnan(found[2])), np.array(mx.isnan(wanted[2])))
    assert int(found[0].max()) < args["logits"].shape[1]
    rows = [n for n in range(args["logits"].shape[0]) if n not in nan_rows]
    for got, want in zip(found, wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert mx.array_equal(got[mx.array(rows)], want[mx.array(rows)])


@pytest.mark.parametrize(("count", "simdgroups"), [(32, 32), (64, 16)])
def test_agrees_at_the_real_vocabulary(count: int, simdgroups: int) -> None:
    args = examples.vocabulary_top_k(Draw(mx.float32, count), 2, REAL, count)
    check(args, simdgroups=simdgroups)


@pytest.mark.parametrize(
    ("vocabulary", "count", "dtype"),
    [
        *((64, 1, mx.float32), (65, 64, mx.float32), (2048, 32, mx.float32)),
        *((4097, 20, mx.float32), (6002, 64, mx.float32), (20_001, 32, mx.float32)),
        *((100, 33, mx.bfloat16), (6002, 64, mx.bfloat16)),
    ],
)
def test_agrees(vocabulary: int, count: int, dtype: mx.Dtype) -> None:
    """bfloat16 has many equal logits."""
    for rows in (1, 3):
        check(examples.vocabulary_top_k(Draw(dtype, vocabulary), rows, vocabulary, count))


def test_sixteen_rows() -> None:
    check(examples.vocabulary_top_k(Draw(mx.float32), 16, 9001, 32), simdgroups=4)


@settings(max_examples=25)
@given(
    vocabulary=st.sampled_from([70, 5000]),
    count=st.sampled_from([1, 32, 64]),
    different=st.sampled_from([1, 3, 50]),
    masked=st.sampled_from([0.0, 0.5, 0.999, 1.0]),
    seed=st.integers(0, 10_000),
)
def test_equal_logits_and_masked_ones_come_by_their_ids(
    vocabulary: int, count: int, different: int, masked: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(-different, different, (2, vocabulary)).astype(np.float32)
    logits[logits == 0] *= random.choice([-1.0, 1.0])
    logits[random.random(logits.shape) < masked] = -np.inf
    args = examples.vocabulary_top_k(Draw(mx.float32), 2, vocabulary, count)
    check({**args, "logits": mx.array(logits)}, seed=seed, simdgroups=4)


@pytest.mark.parametrize("place", [0, 63, 2047, 4999])
@pytest.mark.parametrize("special", [np.nan, -np.nan])
def test_a_nan_shows_as_the_maximum_of_its_row_only(place: int, special: float) -> None:
    args = examples.vocabulary_top_k(Draw(mx.float32), 3, 5000, 32)
    args["logits"][1, place] = special
    check(args, nan_rows=(1,))
    args["logits"][1] = special
    check(args, nan_rows=(1,))


def test_infinite_logits_come_first_and_show() -> None:
    args = examples.vocabulary_top_k(Draw(mx.float32), 1, 5000, 32)
    args["logits"][0, 4321] = mx.inf
    check(args)
    ids, _, highest, _ = metal_vocabulary_top_k(**args, simdgroups=8, runner=Recorder())
    assert int(ids[0, 0]) == 4321
    assert mx.isinf(highest).item()


def test_two_launches_of_which_one_reads_the_vocabulary_whole() -> None:
    record = Recorder()
    args = examples.vocabulary_top_k(Draw(mx.float32), 2, 5000, 32)
    metal_vocabulary_top_k(**args, runner=record)
    maxima, rest = record.launches
    assert (maxima.grid, maxima.threadgroup) == ((3 * 256, 2, 1), (256, 1, 1))
    assert (rest.grid, rest.threadgroup) == ((2 * 1024, 1, 1), (1024, 1, 1))
    assert maxima.outputs == (((2, 79), mx.uint32),)


@pytest.mark.parametrize(("vocabulary", "count"), [(100, 65), (20, 32), (100, 0)])
def test_what_it_does_not_take(vocabulary: int, count: int) -> None:
    args = examples.vocabulary_top_k(Draw(mx.float32), 1, vocabulary, count)
    with pytest.raises(UnsupportedError, match=f"{count} of 1 times {vocabulary}"):
        metal_vocabulary_top_k(**args)
