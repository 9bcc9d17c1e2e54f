"""`mxserve extract-mtp SOURCE FILE`: the MTP head of the original repository as a file of its own.

Conversions leave the head out. SOURCE is a folder of the original repository; of its weight files
only those are needed that hold `mtp.*`, as its index says. FILE is for `mxserve serve --mtp FILE`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.errors import CheckpointError


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve extract-mtp ARGV`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="mxserve extract-mtp", description=__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("file", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    from model.mtp_checkpoint import extract_mtp

    try:
        count = extract_mtp(options.source, options.file)
    except (CheckpointError, OSError) as error:
        print(f"mxserve extract-mtp: {error}", file=sys.stderr)
        return 1
    print(f"{options.file}: {count} tensors, {options.file.stat().st_size / 1e6:,.1f} MB")
    return 0
