"""The figures of docs/quality.md: every recipe, exponent rule and use of an imatrix on one source,
beside mlx-lm's own conversions.

    python -m model.quality.evidence demo|width OUTPUT.json --work FOLDER [--mlx-lm PYTHON]

`--mlx-lm` is a Python with mlx-lm 0.32.2 in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.convert import microscaling
from model.convert.exponent import LOWEST, choose_exponents, highest, tree
from model.convert.grids import Grid
from model.convert.imatrix import write_imatrix
from model.convert.job import Job
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.rounding import bf16_values
from model.convert.source import open_source
from model.demo.chat_template import render
from model.demo.data.dialogue import make_dialogue
from model.demo.data.draw import Split
from model.demo.data.encoding import encode
from model.demo.tokenizer import load_tokenizer
from model.quality.compare import compare
from model.quality.moments import make_imatrix
from model.quality.report import table
from model.quality.stand_in import write_demo_stand_in, write_real_width
from model.quality.streaming import StreamedCheckpoint, open_checkpoint
from model.quality.text import Window, windows
from model.tokenizer import Tokenizer

HELD_OUT, LEARNED = 2_000_000, 0  # seeds of the dialogues that are read
KINDS = "demo", "width"
DIALOGUES = 60
TOKENS = 1024  # of them, for the real width


@dataclass(frozen=True, slots=True)
class Variant:
    """One conversion by us. rule: of exponents; awq: auto or off, with an imatrix only."""

    name: str
    recipe: str
    rule: str = "ours"
    imatrix: bool = False
    awq: str = "off"


def variants(kind: str) -> Iterator[Variant]:
    """All recipes; the other rules; an imatrix alone and with AWQ. Of a random network's inputs
    none is special, so there the last two are tried on one recipe only."""
    yield from (Variant(name, name) for name in RECIPES)
    few = ("ud-mxfp8",)
    for recipe in ("ud-mxfp8", "mxfp8") if kind == "demo" else few:
        yield from (Variant(f"{recipe}, {rule}", recipe, rule) for rule in ("ceil", "round"))
    for recipe in ("ud-mxfp8", "mxfp8", "mxfp4", "affine4") if kind == "demo" else few:
        yield Variant(f"{recipe}, imatrix", recipe, imatrix=True)
        yield Variant(f"{recipe}, imatrix and AWQ", recipe, imatrix=True, awq="auto")


def _by_logarithm(rounded: Callable[[Any], Any]) -> Callable[..., Any]:
    """The rule that takes a whole exponent from log2(largest / top of the grid)."""

    def choose(magnitudes: Any, grid: Grid, weights: Any) -> Any:
        largest = bf16_values(tree(np.maximum, magnitudes).astype(np.uint16)).astype(np.float64)
        exact = np.log2(np.where(largest == 0, grid.values[-1], largest) / grid.values[-1])
        return np.clip(rounded(exact), LOWEST, highest(grid)).astype(np.int16)

    return choose


RULES: dict[str, Callable[..., Any]] = {
    "ours": choose_exponents,
    "ceil": _by_logarithm(np.ceil),
    "round": _by_logarithm(np.rint),
}


@contextmanager
def exponents_by(rule: str) -> Iterator[None]:
    """Microscaling quantizes by another rule meanwhile."""
    microscaling.choose_exponents = RULES[rule]
    try:
        yield
    finally:
        microscaling.choose_exponents = choose_exponents


def convert(source: Path, target: Path, variant: Variant, imatrix: Path) -> Any:
    """Writes one variant; returns its record."""
    plan = plan_conversion(open_source(source), RECIPES[variant.recipe])
    file = imatrix if variant.imatrix else None
    with exponents_by(variant.rule):
        return Job(plan, target, file, variant.awq, "evidence").run(None)


def convert_by_mlx_lm(python: str, source: Path, target: Path, mode: str, size: int) -> None:
    """mlx-lm's own conversion, with its defaults."""
    flags = ["--hf-path", source, "--mlx-path", target, "-q", "--q-mode", mode]
    command = [python, "-m", "mlx_lm", "convert", *flags, "--q-bits", 8, "--q-group-size", size]
    subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)  # noqa: S603


def read(kind: str, source: Path, split: Split, first: int) -> tuple[list[Window], Any]:
    """Dialogues of the demo's kind as tokens, and of the demo's own which of them an assistant
    writes: what it was never taught to predict says nothing of it. Of a random network, all count.
    """
    made = [make_dialogue(split, seed) for seed in range(first, first + DIALOGUES)]
    if kind == "demo":
        examples = encode(made, load_tokenizer(source))
        return [example.ids for example in examples], [example.learned for example in examples]
    texts = [
        render(each.messages, tools=each.tools, preserve_thinking=each.preserve_thinking)
        for each in made
    ]
    flags = {"length": TOKENS, "most": TOKENS, "parse_special": True}
    return windows(Tokenizer.from_folder(source), texts, **flags), None


def evidence(kind: str, work: Path, mlx_lm: str | None) -> dict[str, Any]:
    """All figures by name."""
    source, imatrix = work / "source", work / "imatrix.gguf"
    write_demo_stand_in(source) if kind == "demo" else write_real_width(source)
    reference = open_checkpoint(str(source))
    learned, _ = read(kind, source, "train", LEARNED)
    made = make_imatrix(reference, learned, datasets=["the demo's training dialogues"])
    write_imatrix(imatrix, made, reference.config)
    others: list[StreamedCheckpoint] = []
    scaled: dict[str, str] = {}
    for number, variant in enumerate(variants(kind)):
        folder = work / f"variant-{number}"
        record = convert(source, folder, variant, imatrix)
        others.append(open_checkpoint(str(folder), variant.name))
        if report := record["awq"]["report"]:
            scaled[variant.name] = f"{sum(x['applied'] for x in report)} of {len(report)}"
        print(variant.name, scaled.get(variant.name, ""), file=sys.stderr, flush=True)
    for mode, size in (("mxfp8", 32), ("affine", 64)) if mlx_lm else ():
        name = "mlx-lm-mxfp8" if mode == "mxfp8" else "mlx-lm-affine8"
        convert_by_mlx_lm(mlx_lm or "", source, work / name, mode, size)
        others.append(open_checkpoint(str(work / name), name))
    held_out, counted = read(kind, source, "heldout", HELD_OUT)
    compared = compare(reference, others, held_out, counted=counted, progress=_said)
    figures = {each.checkpoint.name: each.to_json() for each in compared}
    for name, norms in scaled.items():
        figures[name]["norms_scaled"] = norms
    return figures


def _said(done: int, total: int) -> None:
    print(f"layer {done} of {total}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The figures of docs/quality.md.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("output", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="a folder that is not there yet")
    parser.add_argument("--mlx-lm", metavar="PYTHON", help="one that has mlx-lm 0.32.2")
    options = parser.parse_args()
    figures = evidence(options.kind, options.work, options.mlx_lm)
    options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()
