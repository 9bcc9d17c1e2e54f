"""What `mxserve convert` writes loads in mlx-lm and means the same there, in every recipe; what
`mlx_lm.convert` writes loads here.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.convert.inspect import inspect
from model.convert.job import Job
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.source import open_source
from model.random_checkpoint import write_random_checkpoint
from model.safetensors_files import stored_tensors
from tests.parity.references import CLOSE, CLOSE_QUANTIZED, Comparison, Reference, odd_chunks

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
THEIRS = "by-mlx-lm"
TOKENS = [5 + 7 * i % 400 for i in range(150)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder per recipe, all of one original checkpoint with vision and MTP
    tensors, and mlx-lm's logits in each."""
    folder = tmp_path_factory.mktemp("converted")
    original = folder / "original"
    write_random_checkpoint(
        original, layers=4, format="original", shards=2, with_vision=True, with_mtp=True
    )
    source = open_source(original)
    for name, recipe in RECIPES.items():
        plan = plan_conversion(source, recipe, shard_bytes=2_000_000)
        Job(plan, folder / name, None, "auto", "test").run(None)
    command = ["mlx_lm", "convert", "--hf-path", str(original), "--mlx-path", str(folder / THEIRS)]
    run(*command, "-q", "--q-mode", "mxfp8", "--q-bits", "8", "--q-group-size", "32")
    names = [*RECIPES, THEIRS]
    run("tests.parity.mlx_logits", json.dumps(TOKENS), *(str(folder / name) for name in names))
    return folder


def run(*command: str) -> None:
    arguments = [sys.executable, "-m", *command]
    made = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("recipe", [*RECIPES, THEIRS])
def test_mlx_lm_computes_the_same_from_it(converted: Path, recipe: str) -> None:
    theirs = np.load(converted / recipe / "mlx-lm-logits.npy")
    reference = Reference(TOKENS, np.arange(len(TOKENS)), theirs)
    tolerance = CLOSE if recipe == "bf16" else CLOSE_QUANTIZED
    for dequantize in (True, False):
        ours = Comparison(converted / recipe, dequantize=dequantize)
        assert ours.relative_difference(reference) <= tolerance
        chunks = odd_chunks(len(TOKENS) - 20)
        assert ours.relative_difference(reference, chunks=chunks, decode=20) <= tolerance


def test_mxfp8_has_the_tensors_that_mlx_lm_writes(converted: Path) -> None:
    ours, theirs = (
        {name: (t.dtype, t.shape) for name, t in stored_tensors(converted / folder).items()}
        for folder in ("mxfp8", THEIRS)
    )
    text = {name: form for name, form in ours.items() if name.startswith("language_model.")}
    assert text == theirs
    finding = inspect(converted / THEIRS, reference=converted / "original").findings[1]
    assert (finding.about, finding.state) == ("exponents", "good")


def test_recipes_differ_by_more_than_the_tolerance(converted: Path) -> None:
    """So that a file in the wrong format could not pass."""
    exact = np.load(converted / "bf16" / "mlx-lm-logits.npy")
    for recipe in set(RECIPES) - {"bf16"}:
        difference = np.abs(np.load(converted / recipe / "mlx-lm-logits.npy") - exact).max()
        assert difference > 10 * CLOSE_QUANTIZED * np.abs(exact).max()
