"""Our logits on a committed tiny checkpoint against committed logits of two other implementations.

transformers and mlx-lm computed them in float32 (`python -m tests.parity.make --golden
tests/golden` does it again), and drew the continuations. Nothing here needs either of them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from model.sampling import SamplingParams
from tests.parity.references import (
    CLOSE,
    CLOSE_QUANTIZED,
    DECODED,
    Comparison,
    odd_chunks,
    read_references,
)

TINY = Path(__file__).parent / "tiny"


def _name(golden: dict[str, Any]) -> str:
    return " ".join(f"{key} {value}" for key, value in golden["sampling"].items())


@pytest.fixture(scope="module")
def original() -> Comparison:
    return Comparison(TINY / "original")


@pytest.fixture(scope="module", params=[True, False], ids=["dequantized", "kept quantized"])
def quantized(request: pytest.FixtureRequest) -> Comparison:
    return Comparison(TINY / "ud", dequantize=request.param)


@pytest.mark.parametrize("source", ["transformers", "mlx-lm"])
def test_whole_prefill(original: Comparison, source: str) -> None:
    for reference in read_references(TINY, source):
        assert original.difference(reference) <= CLOSE


@pytest.mark.parametrize("source", ["transformers", "mlx-lm"])
def test_prefill_in_odd_chunks(original: Comparison, source: str) -> None:
    for reference in read_references(TINY, source):
        chunks = odd_chunks(len(reference.tokens))
        assert original.difference(reference, chunks=chunks) <= CLOSE


@pytest.mark.parametrize("source", ["transformers", "mlx-lm"])
def test_compiled_decode_after_prefill(original: Comparison, source: str) -> None:
    for reference in read_references(TINY, source):
        assert original.difference(reference, decode=DECODED) <= CLOSE


def test_decode_across_a_moved_cache(original: Comparison) -> None:
    """More decoded tokens than the step's small KV tail holds: it is folded into the body."""
    long = read_references(TINY, "transformers")[1]
    assert original.difference(long, decode=len(long.tokens) - 20) <= CLOSE


def test_decode_from_the_first_token(original: Comparison) -> None:
    short = read_references(TINY, "transformers")[0]
    assert original.difference(short, decode=len(short.tokens)) <= CLOSE


@pytest.mark.parametrize("golden", json.loads((TINY / "continuations.json").read_text()), ids=_name)
def test_continuation(original: Comparison, golden: dict[str, Any]) -> None:
    """Greedy and sampled tokens as an independent sampler draws them from transformers' logits."""
    sampling = SamplingParams(**golden["sampling"])
    drawn = original.continuation(golden["prompt"], sampling, len(golden["tokens"]))
    assert drawn == golden["tokens"]


def test_quantized_by_the_published_recipe(quantized: Comparison) -> None:
    for reference in read_references(TINY, "mlx-lm.ud"):
        assert quantized.relative_difference(reference) <= CLOSE_QUANTIZED


def test_quantized_in_chunks_then_decode(quantized: Comparison) -> None:
    for reference in read_references(TINY, "mlx-lm.ud"):
        chunks = odd_chunks(len(reference.tokens) - DECODED)
        difference = quantized.relative_difference(reference, chunks=chunks, decode=DECODED)
        assert difference <= CLOSE_QUANTIZED


def test_quantized_and_original_references_differ_visibly() -> None:
    """Reading the wrong checkpoint or the wrong reference cannot pass as close."""
    for one, other in zip(
        read_references(TINY, "mlx-lm.ud"), read_references(TINY, "mlx-lm"), strict=True
    ):
        largest = abs(other.logits).max()
        assert abs(one.logits - other.logits).max() > 10 * CLOSE_QUANTIZED * largest
