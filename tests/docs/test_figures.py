"""README's figures are those of the receipts."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT
from tests.docs.figures import replaced


def test_the_table_is_what_the_receipts_say():
    text = Path(ROOT, "README.md").read_text(encoding="utf-8")
    assert text == replaced(text), "python -m tests.docs.figures writes it anew"
