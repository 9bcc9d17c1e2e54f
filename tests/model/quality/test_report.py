"""Figures in words, and the page that has them."""

import json
from pathlib import Path

import pytest

from model.quality.report import aligned, markdown

DOCS = Path(__file__).parents[3] / "docs"
RECEIPTS = sorted((DOCS / "benchmarks").glob("quality-*.json"))


def test_columns_are_aligned() -> None:
    rows = [["a", "1.0", "x"], ["long", "22.5", ""]]
    assert aligned(rows).splitlines() == ["a      1.0  x", "long  22.5"]
    assert aligned(rows, left=(0, 1)).splitlines()[0] == "a     1.0   x"


@pytest.mark.parametrize("receipt", RECEIPTS, ids=lambda path: path.stem)
def test_the_page_says_what_the_receipt_says(receipt: Path) -> None:
    figures = json.loads(receipt.read_text())
    assert {"ud-mxfp8", "ud-mxfp8, round", "mlx-lm-mxfp8", "mlx-lm-affine8"} <= set(figures)
    page = (DOCS / "quality.md").read_text(encoding="utf-8")
    assert f"(benchmarks/{receipt.name})" in page
    assert markdown(figures) in page
