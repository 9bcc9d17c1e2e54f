"""`mxserve bench grammars FOLDER`: reads the arguments, tries each schema, prints what came out."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from server.bench import receipt, report
from server.bench.grammars import Checker, cases
from server.bench.servers import DEMO


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="mxserve bench grammars",
        description="Tries JSON Schemas without a model: each has to be refused up front, or its "
        "masks have to accept every valid instance and refuse every invalid one. Ends with status "
        "1 where one is wrong.",
    )
    add = arguments.add_argument
    add("folder", type=Path, help="of files as JSONSchemaBench has them, with schema and tests")
    add("--tokenizer", type=Path, help="a tokenizer.json, or a folder with one (default: the demo)")
    receipt.add_output_flags(arguments, plot=False)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_args(argv)
    before = report.load_average()
    try:
        checker = Checker(_tokenizer(options.tokenizer).read_text(encoding="utf-8"))
        for name, case in cases(options.folder):
            checker.check(name, case)
        if not checker.tally.schemas:
            raise ValueError(f"{options.folder}: no *.json there")
    except (OSError, ValueError) as error:
        return receipt.failed("grammars", error)
    except KeyboardInterrupt:
        return receipt.stopped("grammars")
    conditions = {
        "tokens_in_the_vocabulary": checker.size,
        "times": "CPU time of one thread; compile has everything from the schema to a first mask",
        "llguidance": metadata.version("llguidance"),
    }
    found = checker.tally.as_json()
    made = receipt.head(receipt.command_line("grammars", argv), conditions, before)
    receipt.show(options, made | found, page(found))
    return 1 if found["wrong"] else 0


def _tokenizer(given: Path | None) -> Path:
    path = DEMO if given is None else given
    return path / "tokenizer.json" if path.is_dir() else path


def page(found: Mapping[str, Any]) -> str:
    """The table and the refusals, by what they name."""
    counts = ("schemas", "refused", "valid_instances", "invalid_instances", "wrong")
    lines = [", ".join(f"{found[name]} {name.replace('_', ' ')}" for name in counts), ""]
    rows = [["us", "p50", "p90", "p99", "max", "mean", "count"]]
    for name in ("compile_us", "mask_us", "accept_us"):
        spread = found[name]
        told = [f"{spread.get(key, 0):,.0f}" for key in ("p50", "p90", "p99", "max", "mean")]
        rows.append([name.removesuffix("_us"), *told, f"{spread['count']:,}"])
    lines += [report.aligned(rows), ""]
    reasons = Counter(" ".join(text.split()[:3]) for text in found["refusals"].values())
    lines += [f"refused: {count} {reason}" for reason, count in reasons.most_common()]
    lines += [f"WRONG {text}" for text in found["wrong_instances"]]
    return "\n".join(lines)
