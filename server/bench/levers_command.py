"""`mxserve bench levers`: what each decision about speed is worth: with it and without it.

Kernel launches of one token, counted at the real model's geometry as for Metal; and what this
device can measure, in turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from model.errors import CheckpointError
from model.geometry import NAMES, Geometry, named, toy
from model.kernel_choice import OF_GUESSES, REGIONS
from model.launches.decode import CONTEXT, Case, count_step
from model.loading import load_model
from model.measure.levers import levers
from server.bench import receipt, report
from server.bench.client import BenchError
from server.bench.command import checkpoint_folder, say
from server.bench.receipt import Value, Values
from server.bench.roofline_command import ADVISED, REAL

WITH, WITHOUT = "with", "without"
TOGETHER = "all of these"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="mxserve bench levers", description=__doc__)
    add = arguments.add_argument
    add("--geometry", choices=NAMES, default=REAL, help=f"for counting (default: {REAL})")
    add("--model", help="for prompts: checkpoint folder (default: the embedded demo)")
    add("--context", type=int, default=32_768, help="of attention (default: 32768 tokens)")
    add("--rounds", type=int, default=5, help="default: 5")
    receipt.add_output_flags(arguments, plot=False)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.rounds < 1 or options.context < 1:
        arguments.error("--rounds and --context: at least 1")
    before = report.load_average()
    try:
        geometry = named(options.geometry)
        say("counting launches")
        launches = counted(geometry)
        values = measured(geometry, options)
    except (BenchError, CheckpointError) as error:
        return receipt.failed("levers", error)
    except KeyboardInterrupt:
        return receipt.stopped("levers")
    conditions = {
        "geometry": geometry.name,
        "launches_counted_after_tokens": CONTEXT,
        "sampling": "temperature 1, top_k 20, top_p 0.95",
        "model_of_prompts": options.model or "demo",
        "rounds": options.rounds,
        "order": "rounds interleaved, every other one begins without",
    }
    made = receipt.head(receipt.command_line("levers", argv), conditions, before)
    found = {"launches": launches} | values.as_json()
    receipt.show(options, made | found, page(launches, values))
    return 0


def counted(geometry: Geometry) -> dict[str, dict[str, int]]:
    """Launches of a sampled token with everything, and without one lever at a time; of regions that
    only a step with guesses has, those of a step with one guess."""

    def launches(**without: Any) -> int:
        return count_step(
            geometry, Case(**{"kernels": True, "sampling": ADVISED, **without})
        ).total()

    everything = launches()
    alone = {
        "projections joined at load": launches(joined=False),
        "elementwise chains compiled": launches(compiled=False),
        **{
            f"kernel {name}": launches(without=(name,))
            for name in REGIONS
            if name not in OF_GUESSES
        },
        "every kernel": launches(kernels=False),
        "few largest logits, not all sorted": launches(without=("vocabulary_top_k",), few=False),
        TOGETHER: launches(kernels=False, joined=False, compiled=False, few=False),
    }
    guessing = launches(guesses=1)
    of_guesses = {
        f"kernel {name}, with a guess": {
            WITH: guessing,
            WITHOUT: launches(guesses=1, without=(name,)),
        }
        for name in OF_GUESSES
    }
    of_tokens = {name: {WITH: everything, WITHOUT: count} for name, count in alone.items()}
    return of_tokens | of_guesses


def measured(geometry: Geometry, options: argparse.Namespace) -> Values:
    """Times with and without, in turns."""
    values = Values()
    say("loading")
    model = load_model(checkpoint_folder(options.model))
    for lever in levers(model, toy(geometry), options.context):
        say(lever.name)
        for on in (True, False):  # pays for what is made once
            lever.measure(on)
        for round_ in range(options.rounds):
            for on in (False, True) if round_ % 2 else (True, False):
                took = Value(lever.name, lever.unit, lever.measure(on), round_)
                values.add(WITH if on else WITHOUT, took)
    return values


def page(launches: Mapping[str, Mapping[str, int]], values: Values) -> str:
    """Both tables."""
    rows = [["", WITH, WITHOUT, "saved"]]
    for name, count in launches.items():
        saved = count[WITHOUT] - count[WITH]
        rows.append([name, *(f"{n:,}" for n in (count[WITH], count[WITHOUT], saved))])
    title = "Kernel launches of a sampled token (counted), with everything and without one of it"
    return "\n\n".join([title, report.aligned(rows), "Measured here", values.page()])
