"""`mxserve bench replay`: reads the arguments, starts the servers, prints what they recomputed.

Each trace gets servers of its own, started empty, one server at a time: tokens are counted here,
not time, and one trace must not warm the cache for the next.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from server.bench import chart, peers, replay_report, report, trace
from server.bench.client import BenchError
from server.bench.command import checkpoint_folder, say
from server.bench.ideal import PromptText
from server.bench.replay import REQUEST_LIMIT_S, ChatTarget, Replay, replay
from server.bench.servers import DEMO, OURS, ServerProcess
from server.bench.trace import Trace

KILL_AFTER_S = 3.0


def parser() -> argparse.ArgumentParser:
    """The command line of `mxserve bench replay`."""
    arguments = argparse.ArgumentParser(
        prog="mxserve bench replay",
        description="Replays agents' conversations and counts the prompt tokens that were computed "
        "for each token that was really new.",
    )
    add = arguments.add_argument
    known = ", ".join(trace.builtin())
    add("traces", nargs="+", metavar="TRACE", help=f"a file, all, or one of: {known}")
    add("--model", help="checkpoint folder (default: the embedded demo)")
    add("--vs", action="append", choices=list(peers.PEERS), default=[], help="repeatable")
    add("--vs-openblas", action="store_true", help="Linux: give the others OpenBLAS too")
    add(
        "--restart",
        nargs="?",
        choices=("term", "kill"),
        const="term",
        help="restart every server half way: after SIGTERM, or after kill -9",
    )
    add("--turns", type=int, help="only the first turns of each session")
    add("--pause", type=float, help="seconds between an answer and the next request")
    add("--timeout", type=float, default=REQUEST_LIMIT_S, help="longest request, seconds")
    add("--serve-flag", action="append", default=[], metavar="FLAG", help="for mxserve serve")
    add("--json", action="store_true", help="print the receipt instead of tables")
    add("--output", type=Path, help="also write the receipt to this file")
    add("--plot", type=Path, help="write a chart (SVG) to this file")
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 1 also when a request failed."""
    options = parser().parse_args(argv)
    try:
        return _run(options)
    except BenchError as error:
        print(f"mxserve bench replay: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mxserve bench replay: stopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    names = list(trace.builtin()) if options.traces == ["all"] else options.traces
    traces = [trace.find(name) for name in names]
    folder = checkpoint_folder(options.model)
    prompts = PromptText(folder or DEMO)
    before = report.load_average()
    measured: list[tuple[Trace, dict[str, Replay]]] = []
    receipt: dict[str, Any] = {}
    for one in traces:
        replays = {
            server: _replay(options, one, folder, prompts, server)
            for server in dict.fromkeys([OURS, *options.vs])
        }
        measured.append((one, replays))
        if not options.json:
            restarted = options.restart is not None
            print(replay_report.table(one, replays, restarted=restarted), end="\n\n", flush=True)
        receipt = {
            "machine": report.machine(),
            "versions": report.versions(),
            "conditions": _conditions(options, before),
            "traces": [replay_report.figures_json(*pair) for pair in measured],
        }
        if options.output is not None:  # a later trace may fail
            options.output.write_text(report.as_text(receipt) + "\n", encoding="utf-8")
    if options.plot is not None:
        panels = [replay_report.panel(*pair) for pair in measured]
        options.plot.write_text(chart.svg(panels), encoding="utf-8")
    print(report.as_text(receipt) if options.json else report.headline(receipt))
    failed = any(
        request.error for _, some in measured for one in some.values() for request in one.requests
    )
    return 1 if failed else 0


def _conditions(options: argparse.Namespace, before: list[float]) -> dict[str, Any]:
    return {
        "model": Path(options.model).name if options.model else "demo",
        "peers": [peers.PEERS[name].title for name in options.vs],
        "peer_openblas": bool(options.vs_openblas) if options.vs else None,
        "serve_flags": options.serve_flag,
        "restart": options.restart,
        "turns": options.turns,
        "pause_s": options.pause,
        "load_average_before": before,
        "load_average_after": report.load_average(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _replay(
    options: argparse.Namespace, one: Trace, folder: Path | None, prompts: PromptText, name: str
) -> Replay:
    with ExitStack() as open_:
        scratch = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="mxserve-bench-")))
        server = peers.contender(
            name,
            folder,
            scratch=scratch,
            flags=options.serve_flag,
            openblas=options.vs_openblas,
        )
        say(f"{one.name}: starting {server.name}")
        open_.enter_context(server)
        reader = None if name == OURS else peers.cached_reader(peers.PEERS[name], server)
        target = open_.enter_context(
            ChatTarget(server.url, model=server.called(), limit_s=options.timeout, cached=reader)
        )
        return replay(
            one,
            target,
            prompts,
            limit=options.turns,
            pause_s=options.pause,
            restart=_restarting(server, options.restart),
            progress=_progress(one.name, server.name),
        )


def _restarting(server: ServerProcess, how: str | None) -> Callable[[], None] | None:
    if how is None:
        return None

    def restart() -> None:
        say(f"restarting {server.name} ({how})")
        if how == "kill":
            time.sleep(KILL_AFTER_S)  # as long as what was said last may take to reach the disk
        server.restart(kill=how == "kill")

    return restart


def _progress(name: str, server: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            say(f"{name}: {server}: {done} of {total} requests")

    return show
