"""`mxserve convert SRC DST --recipe NAME`: a quantized checkpoint out of the original one.

Flags, messages and exit statuses; the work is model/convert's.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.convert.recipe import RECIPES
from server import __version__
from server.loading_bar import LoadingBar

DEFAULT = "ud-mxfp8"
PARTS = ("vision", "mtp")
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve convert ARGV`; returns the exit status."""
    options = _parser().parse_args(argv)
    from model.errors import CheckpointError

    logging.basicConfig(stream=sys.stderr, format="mxserve convert: %(message)s")
    logging.getLogger("server").setLevel(logging.INFO)
    try:
        return _run(options)
    except (CheckpointError, OSError) as error:
        print(f"mxserve convert: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nmxserve convert: stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    recipes = "\n".join(f"  {name:<14} {recipe.about}" for name, recipe in RECIPES.items())
    parser = argparse.ArgumentParser(
        prog="mxserve convert",
        description="Quantizes the original checkpoint into a folder that mxserve and mlx-lm load. "
        "Killed at any moment, the same command goes on where it was.",
        epilog=f"recipes:\n{recipes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SRC", help="folder of the original, or its hub id")
    parser.add_argument("target", metavar="DST", type=Path, nargs="?", help="folder to be made")
    parser.add_argument("--recipe", choices=RECIPES, default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument("--imatrix", type=Path, metavar="FILE", help="importance matrix (GGUF)")
    parser.add_argument(
        "--awq",
        choices=("auto", "off"),
        default="auto",
        help="scale inputs before quantizing where that lowers the measured error; needs --imatrix",
    )
    parser.add_argument(
        "--drop",
        type=_parts,
        default=(),
        metavar="vision,mtp",
        help="leave these tensors out (default: keep all)",
    )
    parser.add_argument("--plan", action="store_true", help="only say what would be written")
    parser.add_argument("--json", action="store_true", help="print plan or record as JSON")
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: up to 8)")
    return parser


def _parts(text: str) -> tuple[Any, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise argparse.ArgumentTypeError(f"expected {' or '.join(PARTS)}, found {wrong[0]}")
    return tuple(sorted(set(parts)))


def _run(options: argparse.Namespace) -> int:
    from model.convert.job import Job
    from model.convert.plan import plan_conversion
    from model.convert.report import plan_text, summary
    from model.convert.source import open_source
    from model.errors import CheckpointError

    target: Path | None = options.target
    if target is None and not options.plan:
        raise CheckpointError("expected DST, the folder to be made, or --plan")
    source = open_source(options.source)
    plan = plan_conversion(source, RECIPES[options.recipe], drop=options.drop)
    if options.plan or target is None:
        print(json.dumps(summary(plan), indent=2) if options.json else plan_text(plan))
        return 0
    for name in source.dropped:
        _say(f"left out: {name}, which no part of this model has")
    job = Job(plan, target, options.imatrix, options.awq, __version__)
    if job.is_finished():
        _say(f"{target}: holds this conversion already, whole")
        return 0
    bar = LoadingBar(sys.stderr, doing="converting", eta=True)
    record = job.run(bar, say=_say, workers=options.workers)
    if options.json:
        print(json.dumps(record, indent=2))
    return 0


def _say(text: str) -> None:
    print(f"mxserve convert: {text}", file=sys.stderr)
