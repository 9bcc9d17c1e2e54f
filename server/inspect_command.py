"""`mxserve inspect PATH`: what is in a checkpoint, without loading it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.convert.inspect import Inspection

EXIT_FAILED = 1


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve inspect ARGV`; 1 where the checkpoint would not load."""
    options = _parser().parse_args(argv)
    from model.convert.inspect import inspect
    from model.errors import CheckpointError
    from model.hub import hub_snapshot
    from model.loading import DEMO_FOLDER

    try:
        folder = DEMO_FOLDER if options.path == "demo" else Path(options.path).expanduser()
        if not folder.is_dir():
            folder = hub_snapshot(options.path)
        found = inspect(folder, reference=options.reference, everything=options.all)
    except (CheckpointError, OSError) as error:
        print(f"mxserve inspect: {error}", file=sys.stderr)
        return EXIT_FAILED
    print(json.dumps(found.to_json(), indent=2) if options.json else text(found))
    return EXIT_FAILED if found.problem else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxserve inspect",
        description="Says what is in a checkpoint: architecture, size and bits by part, bytes per "
        "token, whether it fits this machine, whether it is whole, and how it was made.",
    )
    parser.add_argument("path", metavar="PATH|ID", help="folder, hub id, or demo")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="the original, to compare the norms with"
    )
    parser.add_argument("--all", action="store_true", help="read all values, not a sample")
    return parser


def text(found: Inspection) -> str:
    """The report for a terminal."""
    from model.convert.report import size_text, table

    report = found.to_json()
    if found.problem:
        return f"{report['name']}: does not load\n{found.problem}"
    lines = [f"{report['name']}: {_architecture(report['architecture'])}", ""]
    lines += table(
        ("part", "stored as", "parameters", "bits", "size", "per token"),
        (_row(part, report["bytes_per_token"]["by_part"]) for part in report["parts"]),
        left=2,
    )
    read, memory = report["bytes_per_token"], report["memory"]
    fits = "fits" if memory["fits"] else "DOES NOT FIT"
    lines += [
        "",
        f"files      {size_text(report['bytes'])} in {report['files']}, headers and index agree",
        f"per token  {size_text(read['weights'])} of weights, "
        f"{size_text(read['recurrent_state'])} of recurrent state, "
        f"{size_text(read['kv_of_4096'])} of keys and values after 4,096 tokens",
        f"memory     {fits}: {size_text(memory['needed_bytes'])} with {memory['context']:,} "
        f"tokens, {size_text(memory['available_bytes'])} free on this machine "
        f"({memory['device']})",
        f"made       {_made(report['conversion'])}",
        *(f"{finding.about:<10} {finding.text}" for finding in found.findings),
    ]
    return "\n".join(lines)


def _architecture(found: dict[str, Any]) -> str:
    return (
        f"{found['model_type']}, {found['layers']} layers ({found['linear_attention']} linear, "
        f"{found['full_attention']} full attention), width {found['hidden_size']}, "
        f"{found['experts']} experts of which a token takes {found['experts_per_token']}, "
        f"{found['vocabulary']:,} tokens"
    )


def _row(part: dict[str, Any], read: dict[str, int]) -> tuple[str, ...]:
    from model.convert.report import size_text

    return (
        part["name"],
        ", ".join(part["stored_as"]),
        f"{part['parameters']:,}",
        f"{part['bits']:.2f}",
        size_text(part["bytes"]),
        size_text(read[part["name"]]) if part["name"] in read else "-",
    )


def _made(record: dict[str, Any] | None) -> str:
    if record is None:
        return "no record of a conversion by mxserve"
    source = record.get("source") or {}
    return f"by mxserve {record.get('mxserve')}, {record.get('recipe')}, from {source.get('name')}"
