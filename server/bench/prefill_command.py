"""`mxserve bench prefill`: prompts of several lengths, from nothing to the first token, and peak
memory; from inside the process, without HTTP and without a cache."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence

from server.bench import receipt
from server.bench.chart import Panel
from server.bench.command import say
from server.bench.decode_command import MIB
from server.bench.decode_workers import Worker, turns
from server.bench.receipt import Value, Values
from server.bench.side_by_side import add_common_flags, numbers, run

SIZES = (512, 4096, 16_384)
WARM_UP = 16  # tokens of the first two prompts: one pays for what is made once, one is timed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="mxserve bench prefill", description=__doc__)
    add_common_flags(arguments)
    arguments.add_argument(
        "--sizes", type=numbers, default=SIZES, help="prompt tokens (default: 512,4096,16384)"
    )
    arguments.add_argument(
        "--longest",
        type=float,
        default=600.0,
        help="seconds: a size that would take a contender longer, by its speed at the size before, "
        "is not asked of it (default: 600)",
    )
    receipt.add_output_flags(arguments)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.rounds < 1:
        arguments.error("--rounds: at least 1")
    conditions = {
        "sizes": list(options.sizes),
        "longest_s": options.longest,
        "prompts": "random token ids, the same for every contender, new in every round",
        "order": "rounds interleaved: each size is asked of every contender once a round",
    }
    return run("prefill", argv, options, measure, conditions, panels)


def panels(values: Values) -> list[Panel]:
    """Speed and memory, over the prompt's length."""
    return [
        values.panel("Prefill, one prompt", "prompt tokens", "tok/s"),
        values.panel("Peak memory", "prompt tokens", "MiB", log=True),
    ]


def measure(workers: Sequence[Worker], options: argparse.Namespace) -> Values:
    """All rounds. A contender too slow for a size is not asked for it."""
    values, seeds = Values(), itertools.count(int(time.time()))
    a_token: dict[str, float] = {}  # seconds, at the size before
    for worker in workers:
        say(f"warming up: {worker.name}")
        worker.ask("prefill", tokens=WARM_UP, seed=0)
        warm = worker.ask("prefill", tokens=WARM_UP, seed=1)
        a_token[worker.name] = warm["seconds"] / WARM_UP
    for round_ in range(options.rounds):
        for size in options.sizes:
            seed = next(seeds)
            for worker in turns(workers, round_):
                expected = size * a_token[worker.name]
                if expected > options.longest:
                    minutes = f"about {expected / 60:,.0f} minutes expected"
                    values.note(f"{worker.name}, {size:,} tokens: not asked, {minutes}")
                    continue
                say(f"round {round_ + 1} of {options.rounds}: {size:,} tokens: {worker.name}")
                answer = worker.ask("prefill", tokens=size, seed=seed)
                a_token[worker.name] = answer["seconds"] / size
                _add_prefill(values, worker.name, size, round_, answer)
    return values


def _add_prefill(
    values: Values, name: str, size: int, round_: int, answer: dict[str, float]
) -> None:
    of, rate, peak = f"of {size:,} tokens", size / answer["seconds"], answer["peak_bytes"] / MIB
    values.add(name, Value(f"prefill {of}", "tok/s", rate, round_, at=size))
    values.add(name, Value(f"peak memory {of}", "MiB", peak, round_, at=size))
