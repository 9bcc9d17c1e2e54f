"""What `mxserve bench decode` and `bench prefill` have in common: their flags, and a run from the
workers' start to the receipt. What is measured is theirs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from server.bench import receipt, report
from server.bench.chart import Panel
from server.bench.client import BenchError
from server.bench.command import checkpoint_folder
from server.bench.decode_workers import Worker, contenders
from server.bench.receipt import Values

Measure = Callable[[Sequence[Worker], argparse.Namespace], Values]


def add_common_flags(arguments: argparse.ArgumentParser) -> None:
    """--model, --vs, --vs-openblas, --rounds."""
    add = arguments.add_argument
    add("--model", help="checkpoint folder (default: the embedded demo)")
    add("--vs", choices=["mlx-lm"], help="take turns with it on the same checkpoint")
    add("--vs-openblas", action="store_true", help="Linux: give mlx-lm OpenBLAS too")
    add("--rounds", type=int, default=3, help="default: 3")


def numbers(text: str) -> tuple[int, ...]:
    """Positive whole numbers, the least first."""
    found = tuple(sorted({int(part) for part in text.split(",")}))
    if found[0] < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return found


def run(
    mode: str,
    argv: Sequence[str],
    options: argparse.Namespace,
    measure: Measure,
    conditions: Mapping[str, Any],
    panels: Callable[[Values], Sequence[Panel]],
) -> int:
    """Starts the contenders, measures, and shows and writes what was asked for, `conditions` in the
    receipt and `panels` in the chart. Returns the exit status."""
    before = report.load_average()
    try:
        folder = checkpoint_folder(options.model)
        with contenders(folder, options.vs, openblas=options.vs_openblas) as workers:
            values = measure(workers, options)
            about = {worker.name: worker.about for worker in workers}
    except BenchError as error:
        return receipt.failed(mode, error)
    except KeyboardInterrupt:
        return receipt.stopped(mode)
    whole = {
        "model": folder.name if folder else "demo",
        "rounds": options.rounds,
        "contenders": about,
        **conditions,
    }
    made = receipt.head(receipt.command_line(mode, argv), whole, before)
    charts = {f"{mode}.svg": panels(values)}
    receipt.show(options, made | values.as_json(), values.page(), charts)
    return 0
