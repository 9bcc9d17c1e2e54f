"""`mxserve bench decode`: one sequence's decode speed after contexts of several lengths, the host's
time for a step, and peak memory; from inside the process, without HTTP.

The context's keys and values are made up (random numbers in the right places), so that 128K tokens
need no prefill; the step does not know the difference.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from model import device as devices
from server.bench import receipt, report
from server.bench.client import BenchError
from server.bench.command import checkpoint_folder, say
from server.bench.decode_workers import Worker, contenders, turns
from server.bench.receipt import Value, Values

CONTEXTS = (1024, 4096, 16_384, 32_768, 65_536, 131_072)
MOST_TOKENS = 240  # of one run: fewer than a tail, so that no merge falls into some runs only
HOST_CALLS = 20
MIB = 1 << 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="mxserve bench decode", description=__doc__)
    add_common_flags(arguments)
    arguments.add_argument(
        "--contexts", type=numbers, default=CONTEXTS, help="default: 1024 to 131072"
    )
    arguments.add_argument("--tokens", type=int, default=32, help="of each run (default: 32)")
    receipt.add_output_flags(arguments)
    return arguments


def add_common_flags(arguments: argparse.ArgumentParser) -> None:
    """What decode and prefill have in common."""
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


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if not 1 <= options.tokens <= MOST_TOKENS or options.rounds < 1:
        arguments.error(f"--tokens: 1 to {MOST_TOKENS}; --rounds: at least 1")
    before = report.load_average()
    try:
        folder = checkpoint_folder(options.model)
        with contenders(folder, options.vs, openblas=options.vs_openblas) as workers:
            values = measure(workers, options)
            about = {worker.name: worker.about for worker in workers}
    except BenchError as error:
        return receipt.failed("decode", error)
    except KeyboardInterrupt:
        return receipt.stopped("decode")
    conditions = {
        "model": folder.name if folder else "demo",
        "contexts": list(options.contexts),
        "tokens": options.tokens,
        "rounds": options.rounds,
        "contenders": about,
        "context_is": "random keys and values, not computed",
        "order": "rounds interleaved: each context is asked of every contender once a round",
    }
    made = receipt.head(receipt.command_line("decode", argv), conditions, before)
    panels = [
        values.panel("Decode, one sequence", "tokens before", "tok/s"),
        values.panel("Time of a step", "tokens before", "ms", log=True),
        values.panel("Peak memory", "tokens before", "MiB", log=True),
    ]
    receipt.show(options, made | values.as_json(), values.page(), {"decode.svg": panels})
    return 0


def measure(workers: Sequence[Worker], options: argparse.Namespace) -> Values:
    """All rounds. A contender that has no memory for a context is not asked again for it."""
    values, skipped = Values(), set[tuple[str, int]]()
    for round_ in range(options.rounds):
        for context in options.contexts:
            for worker in turns(workers, round_):
                if (worker.name, context) in skipped:
                    continue
                say(f"round {round_ + 1} of {options.rounds}: {context:,} tokens: {worker.name}")
                answer = worker.ask(
                    "decode",
                    context=context,
                    tokens=options.tokens,
                    free_bytes=devices.current().memory_available,
                )
                if "skipped" in answer:
                    skipped.add((worker.name, context))
                    values.note(f"{worker.name}, {context:,} tokens: {answer['skipped']}")
                    continue
                _add_decode(values, worker.name, context, round_, answer, options.tokens)
        for worker in turns(workers, round_):
            say(f"round {round_ + 1} of {options.rounds}: host time: {worker.name}")
            times = worker.ask("host_time", context=min(options.contexts), count=HOST_CALLS)
            median = statistics.median(times["microseconds"])
            values.add(worker.name, Value("host time of a step", "us", median, round_))
    return values


def _add_decode(
    values: Values, name: str, context: int, round_: int, answer: dict[str, float], tokens: int
) -> None:
    after = f"after {context:,} tokens"
    seconds = answer["seconds"] / tokens
    for what, unit, value in (
        (f"decode {after}", "tok/s", 1 / seconds),
        (f"a step {after}", "ms", 1e3 * seconds),
        (f"peak memory {after}", "MiB", answer["peak_bytes"] / MIB),
    ):
        values.add(name, Value(what, unit, value, round_, at=context))
