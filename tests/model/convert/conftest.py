"""An original checkpoint with everything that a conversion meets."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.random_checkpoint import write_random_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, four layers in three files, with vision and an MTP head."""
    folder = tmp_path_factory.mktemp("original")
    write_random_checkpoint(
        folder, layers=4, format="original", shards=3, with_vision=True, with_mtp=True
    )
    return folder
