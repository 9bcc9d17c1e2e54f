"""`mxserve imatrix`: how strongly texts drive each input of a model's matrices, as a GGUF file that
`mxserve convert --imatrix` and llama.cpp read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CheckpointError
from model.quality.text import TOKENS, read_text
from server.reading_texts import (
    EXIT_FAILED,
    EXIT_STOPPED,
    add_text_flags,
    layers_done,
    windows_of,
)

if TYPE_CHECKING:
    from model.convert.imatrix import Imatrix
    from model.quality.streaming import StreamedCheckpoint


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="mxserve imatrix",
        description="Runs a model over texts, one layer at a time in float32, and writes the sums "
        "of squares of the inputs of all its matrices, of routed experts by expert.",
    )
    add = arguments.add_argument
    add("model", metavar="MODEL", help="checkpoint folder or hub id; best the unquantized one")
    add("texts", metavar="TEXT", nargs="+", type=Path, help="files in UTF-8")
    add("-o", "--output", metavar="FILE.gguf", type=Path, required=True)
    add_text_flags(arguments, tokens=8 * TOKENS)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    from model.convert.imatrix import write_imatrix
    from model.quality.moments import make_imatrix
    from model.quality.streaming import open_checkpoint

    try:
        texts = [read_text(path) for path in options.texts]
        checkpoint = open_checkpoint(options.model)
        found = windows_of(options, checkpoint.tokenizer(), texts)
        names = [path.name for path in options.texts]
        imatrix = make_imatrix(checkpoint, found, datasets=names, progress=layers_done())
        write_imatrix(options.output, imatrix, checkpoint.config)
    except (CheckpointError, ValueError, OSError, FloatingPointError) as error:
        print(f"mxserve imatrix: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nmxserve imatrix: stopped", file=sys.stderr)
        return EXIT_STOPPED
    print(summary(checkpoint, imatrix, options.output, sum(map(len, found))))
    return 0


def summary(checkpoint: StreamedCheckpoint, imatrix: Imatrix, output: Path, tokens: int) -> str:
    """What was written, and which experts saw nothing."""
    lines = [
        f"{output}: {len(imatrix.entries)} matrices of {checkpoint.name}, {tokens:,} tokens in "
        f"{imatrix.chunk_count} windows"
    ]
    unseen = {m: n for m, n in imatrix.unseen_experts().items() if m.endswith("down_proj")}
    if unseen:
        layers, experts = len(unseen), sum(unseen.values())
        lines.append(
            f"{experts} routed experts in {layers} layers saw no token; a longer text reaches more"
        )
    lines += [f"no input seen: {name}" for name in imatrix.missing(checkpoint.config)]
    return "\n".join(lines)
