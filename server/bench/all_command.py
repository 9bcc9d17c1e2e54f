"""`mxserve bench all`: every benchmark, one after the other, each with a receipt and its charts."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from server.bench import command

STEPS = ("roofline", "decode", "prefill", "chat", "serve", "replay")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="mxserve bench all",
        description="Runs roofline, decode, prefill, the plain benchmark over HTTP (chat), serve "
        "and replay. With every default it takes hours on a slow machine.",
    )
    add = arguments.add_argument
    add("--model", help="checkpoint folder (default: the embedded demo)")
    add("--vs", choices=["mlx-lm"], help="compare, where a benchmark can")
    add("--vs-openblas", action="store_true", help="Linux: give mlx-lm OpenBLAS too")
    add("--rounds", type=int, default=3, help="default: 3")
    add("--only", type=_steps, default=STEPS, help=f"some of {','.join(STEPS)}")
    add("--contexts", help="of decode")
    add("--sizes", help="of prefill")
    add("--trace", default="all", help="of replay (default: all)")
    add("--json", action="store_true", help="print all receipts as one object, not tables")
    add("--plot", type=Path, metavar="DIR", help="write receipts and charts there")
    return arguments


def _steps(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]}: expected some of {', '.join(STEPS)}")
    return tuple(name for name in STEPS if name in names)


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 1 when one of the benchmarks failed."""
    options = parser().parse_args(argv)
    receipts: dict[str, Any] = {}
    failures = 0
    with ExitStack() as open_:
        folder = options.plot
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="mxserve-bench-")
            folder = Path(open_.enter_context(temporary))
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            command.say(f"mxserve bench {name}")
            output = folder / f"{name}.json"
            words = [*words_of(name, options, folder), "--output", str(output)]
            with redirect_stdout(StringIO()) if options.json else ExitStack():
                status = command.main(words)
            if status == 130:  # stopped by the user
                return status
            failures += bool(status)
            if output.exists():
                receipts[name] = json.loads(output.read_text(encoding="utf-8"))
    if options.json:
        print(json.dumps(receipts, indent=2, ensure_ascii=False))
    return 1 if failures else 0


def words_of(name: str, options: argparse.Namespace, folder: Path) -> list[str]:
    """The arguments of `mxserve bench` for one step."""
    model = ["--model", options.model] if options.model else []
    against = ["--vs", options.vs] if options.vs else []
    if options.vs and options.vs_openblas:
        against.append("--vs-openblas")
    rounds = ["--rounds", str(options.rounds)]
    if name == "roofline":
        return ["roofline", *(model or against[:2])]
    if name == "decode":
        at = ["--contexts", options.contexts] if options.contexts else []
        return ["decode", *model, *against, *rounds, *at, "--plot", str(folder)]
    if name == "prefill":
        at = ["--sizes", options.sizes] if options.sizes else []
        return ["prefill", *model, *against, *rounds, *at, "--plot", str(folder)]
    if name == "chat":
        return [*model, *against, *rounds]
    chart = ["--plot", str(folder / f"{name}.svg")]
    if name == "serve":
        return ["serve", *model, *against, *rounds, *chart]
    return ["replay", options.trace, *model, *chart]
