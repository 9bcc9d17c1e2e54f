"""Our logits against transformers' and mlx-lm's, on checkpoints made a moment ago.

Whole prefill, prefill in odd chunks, and prefill followed by compiled decode steps.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypedDict

import pytest

from tests.parity.references import (
    CLOSE,
    CLOSE_QUANTIZED,
    DECODED,
    Comparison,
    odd_chunks,
    read_references,
)

# The first test waits for the references.
pytestmark = [pytest.mark.parity, pytest.mark.timeout(1800)]

QUANTIZED = [("plain", "mxfp8"), ("plain", "affine8"), ("plain", "ud"), ("odd", "mxfp8")]
Open = Callable[[str, str, bool], Comparison]
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def comparison(checkpoints: Path) -> Open:
    """Each checkpoint loaded once: its name, its form, and whether to dequantize it."""

    @cache
    def open_checkpoint(name: str, form: str, dequantize: bool) -> Comparison:
        return Comparison(checkpoints / name / form, dequantize=dequantize)

    return open_checkpoint


@pytest.mark.parametrize("source", ["transformers", "mlx-lm"])
@pytest.mark.parametrize(
    "way", ["whole", "chunks", "decode", "chunks then decode", "nearly all decoded"]
)
@pytest.mark.parametrize("name", ["plain", "odd"])
def test_float32(
    checkpoints: Path,
    comparison: Open,
    record_property: Record,
    name: str,
    way: str,
    source: str,
) -> None:
    ours = comparison(name, "original", True)
    for reference in read_references(checkpoints / name, source):
        difference = ours.difference(reference, **_steps(way, len(reference.tokens)))
        record_property("max_difference", difference)
        assert difference <= CLOSE


@pytest.mark.parametrize("dequantize", [True, False], ids=["dequantized", "kept quantized"])
@pytest.mark.parametrize("way", ["whole", "chunks then decode"])
@pytest.mark.parametrize(("name", "scheme"), QUANTIZED)
def test_quantized(
    checkpoints: Path,
    comparison: Open,
    record_property: Record,
    name: str,
    scheme: str,
    way: str,
    dequantize: bool,
) -> None:
    ours = comparison(name, scheme, dequantize)
    for reference in read_references(checkpoints / name, f"mlx-lm.{scheme}"):
        difference = ours.relative_difference(reference, **_steps(way, len(reference.tokens)))
        record_property("max_relative_difference", difference)
        assert difference <= CLOSE_QUANTIZED


@pytest.mark.parametrize(("name", "scheme"), QUANTIZED)
def test_a_quantized_reference_is_its_own(checkpoints: Path, name: str, scheme: str) -> None:
    """Quantising moves the logits beyond the tolerance: the wrong file cannot pass."""
    quantized = read_references(checkpoints / name, f"mlx-lm.{scheme}")
    original = read_references(checkpoints / name, "mlx-lm")
    for one, other in zip(quantized, original, strict=True):
        largest = abs(other.logits).max()
        assert abs(one.logits - other.logits).max() > 10 * CLOSE_QUANTIZED * largest


class Steps(TypedDict):
    chunks: list[int] | None
    decode: int


def _steps(way: str, total: int) -> Steps:
    ways: dict[str, Steps] = {
        "whole": {"chunks": None, "decode": 0},
        "chunks": {"chunks": odd_chunks(total), "decode": 0},
        "decode": {"chunks": None, "decode": DECODED},
        "chunks then decode": {"chunks": odd_chunks(total - DECODED), "decode": DECODED},
        "nearly all decoded": {"chunks": None, "decode": total - 10},  # folds the KV tail
    }
    return ways[way]
