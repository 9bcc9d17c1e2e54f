"""`mxserve quality`: how far checkpoints are from the one they were made from."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CheckpointError
from model.quality.report import page
from model.quality.text import TOKENS, read_text
from server.bench.chart import Panel, svg
from server.reading_texts import (
    EXIT_FAILED,
    EXIT_STOPPED,
    add_text_flags,
    layers_done,
    windows_of,
)

if TYPE_CHECKING:
    from model.quality.compare import Comparison
    from model.quality.streaming import StreamedCheckpoint

_LEAST_KL = 1e-9  # what a logarithmic axis begins at


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="mxserve quality",
        description="Runs a reference and other checkpoints of it over a text, one layer at a time "
        "in float32, and compares what they predict, what their routers choose and their matrices.",
    )
    add = arguments.add_argument
    add("reference", metavar="REF", help="checkpoint folder or hub id, best the unquantized one")
    add(
        "others",
        metavar="QUANT",
        nargs="+",
        help="folders or hub ids to compare, as NAME=PATH where the folder's name will not do",
    )
    add("--text", metavar="FILE", type=Path, action="append", required=True, help="repeatable")
    add_text_flags(arguments, tokens=TOKENS)
    add("--json", action="store_true", help="print the figures as JSON")
    add("--plot", metavar="FILE.svg", type=Path, help="also draw them")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    from model.quality.compare import compare
    from model.quality.streaming import open_checkpoint

    try:
        texts = [read_text(path) for path in options.text]
        reference = open_checkpoint(options.reference)
        others = named([_opened(given) for given in options.others])
        found = windows_of(options, reference.tokenizer(), texts)
        compared = compare(reference, others, found, progress=layers_done())
        if options.plot is not None:
            options.plot.write_text(plot(compared), encoding="utf-8")
    except (CheckpointError, ValueError, OSError, FloatingPointError) as error:
        print(f"mxserve quality: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nmxserve quality: stopped", file=sys.stderr)
        return EXIT_STOPPED
    figures = {each.checkpoint.name: each.to_json() for each in compared}
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        tokens = sum(map(len, found))
        print(f"{tokens:,} tokens in {len(found)} windows")
        print(page(reference.name, reference.config.num_experts_per_tok, figures))
    return 0


def _opened(given: str) -> StreamedCheckpoint:
    from model.quality.streaming import open_checkpoint

    name, equals, path = given.partition("=")
    if equals and not Path(given).is_dir():
        return open_checkpoint(path, name)
    return open_checkpoint(given)


def named(checkpoints: list[StreamedCheckpoint]) -> list[StreamedCheckpoint]:
    """The same; raises ValueError where two have one name."""
    names = [checkpoint.name for checkpoint in checkpoints]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two checkpoints are named {name}; give them names, NAME=PATH")
    return checkpoints


def plot(compared: Sequence[Comparison]) -> str:
    """The spread of the divergence, and the routers' agreement by layer."""
    curves = {
        each.checkpoint.name: [(100 * x, max(y, _LEAST_KL)) for x, y in each.kl_curve()]
        for each in compared
    }
    routers = {
        each.checkpoint.name: [(float(n), 100 * share) for n, share in enumerate(each.routers)]
        for each in compared
    }
    kl = Panel("KL divergence from the reference", "% of tokens within", "nats", curves, log=True)
    layers = Panel("Routers: experts of the reference kept", "layer", "%", routers)
    return svg([kl, layers])
