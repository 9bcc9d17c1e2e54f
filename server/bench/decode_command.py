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
from server.bench import receipt
from server.bench.chart import Panel
from server.bench.client import BenchError
from server.bench.command import say
from server.bench.decode_workers import Worker, turns
from server.bench.receipt import Value, Values
from server.bench.servers import OURS
from server.bench.side_by_side import add_common_flags, numbers, run

CONTEXTS = (1024, 4096, 16_384, 32_768, 65_536, 131_072)
MOST_TOKENS = 240  # of one run: fewer than a tail, so that no merge falls into some runs only
HOST_CALLS = 20
DEPTHS = (0, 1, 2, 3)
MIB = 1 << 20


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="mxserve bench decode", description=__doc__)
    add_common_flags(arguments)
    arguments.add_argument(
        "--contexts", type=numbers, default=CONTEXTS, help="default: 1024 to 131072"
    )
    arguments.add_argument("--tokens", type=int, default=32, help="of each run (default: 32)")
    arguments.add_argument(
        "--host-calls",
        type=int,
        default=HOST_CALLS,
        help="calls of a step that its host time is the median of, 0 leaves it out "
        f"(default: {HOST_CALLS})",
    )
    arguments.add_argument(
        "--mtp", action="store_true", help="answers with 0 to 3 tokens guessed, and nothing else"
    )
    receipt.add_output_flags(arguments)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if not 1 <= options.tokens <= MOST_TOKENS or options.rounds < 1:
        arguments.error(f"--tokens: 1 to {MOST_TOKENS}; --rounds: at least 1")
    if options.host_calls < 0:
        arguments.error("--host-calls: at least 0")
    if options.mtp:
        asked = {"tokens": options.tokens, "asked": "questions for the demo, temperature 0 and 1"}
        order = {"order": "rounds interleaved: 0 to 3 guessed, every other round 3 to 0"}
        return run("decode", argv, options, measure_mtp, asked | order, lambda values: [])
    conditions = {
        "contexts": list(options.contexts),
        "tokens": options.tokens,
        "context_is": "random keys and values, not computed",
        "order": "rounds interleaved: each context is asked of every contender once a round",
    }
    return run("decode", argv, options, measure, conditions, panels)


def panels(values: Values) -> list[Panel]:
    """Speed, time of a step and memory, over the context."""
    return [
        values.panel("Decode, one sequence", "tokens before", "tok/s"),
        values.panel("Time of a step", "tokens before", "ms", log=True),
        values.panel("Peak memory", "tokens before", "MiB", log=True),
    ]


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
        for worker in turns(workers, round_) if options.host_calls else ():
            say(f"round {round_ + 1} of {options.rounds}: host time: {worker.name}")
            times = worker.ask("host_time", context=min(options.contexts), count=options.host_calls)
            median = statistics.median(times["microseconds"])
            values.add(worker.name, Value("host time of a step", "us", median, round_))
    return values


def measure_mtp(workers: Sequence[Worker], options: argparse.Namespace) -> Values:
    """Speed of whole answers, and tokens a step, by how many tokens are guessed."""
    values = Values()
    worker = next(worker for worker in workers if worker.name == OURS)
    for round_ in range(-1, options.rounds):  # the first one compiles
        for depth in DEPTHS[:: -1 if round_ % 2 else 1]:
            for temperature in (0.0, 1.0):
                asked = {"depth": depth, "tokens": options.tokens, "temperature": temperature}
                answer = worker.ask("dialogues", **asked)
                if "skipped" in answer:
                    raise BenchError(answer["skipped"])
                if round_ < 0:
                    continue
                say(f"round {round_ + 1} of {options.rounds}: {depth} guessed")
                how = f"{depth} guessed, temperature {temperature:g}"
                speed = answer["tokens"] / answer["seconds"]
                values.add(worker.name, Value(f"answers, {how}", "tok/s", speed, round_))
                gain = 1 + answer["accepted"] / max(answer["steps"], 1)
                values.add(worker.name, Value(f"tokens a step, {how}", "tokens", gain, round_))
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
