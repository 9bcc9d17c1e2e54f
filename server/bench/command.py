"""`mxserve bench`: reads the arguments, lets the servers take turns, prints the report.

Each round asks every server the same prompts, one server after the other, so that a machine that
gets slower or faster meanwhile does so for both.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from server.bench import peers, report, servers, workloads
from server.bench.client import BenchError, ChatClient
from server.bench.ideal import end_tokens
from server.bench.servers import DEMO, OURS
from server.bench.workloads import Measurement
from server.keys import clients_key

ENDED = 130  # exit status of what was interrupted
DEFAULT_SIZES = (128, 928, 3000)
MODES = {
    name: f"server.bench.{name}_command"
    for name in (
        "serve",
        "replay",
        "decode",
        "prefill",
        "roofline",
        "levers",
        "grammars",
        "convert",
        "all",
    )
}


def parser() -> argparse.ArgumentParser:
    """The command line of `mxserve bench`."""
    arguments = argparse.ArgumentParser(
        prog="mxserve bench",
        description="Measures time to first token, prefill, decode and the model card's own chat. "
        "`mxserve bench serve` measures many streams at once, `replay` the prompt cache, `decode` "
        "and `prefill` the engine without HTTP, `roofline` what a token costs and what the memory "
        "allows, `levers` what each decision is worth, `grammars` what schemas cost, "
        "`convert` a conversion, `all` everything else; each has its own --help.",
    )
    arguments.add_argument(
        "--url", help="measure the server at this address instead of starting one"
    )
    arguments.add_argument("--model", help="checkpoint folder (default: the embedded demo)")
    arguments.add_argument("--vs", choices=["mlx-lm"], help="compare on the same checkpoint")
    arguments.add_argument(
        "--vs-openblas", action="store_true", help="Linux: give the other server OpenBLAS too"
    )
    arguments.add_argument("--rounds", type=_positive, default=3, help="default: 3")
    arguments.add_argument(
        "--sizes", type=_sizes, default=DEFAULT_SIZES, help="prompt tokens (default: 128,928,3000)"
    )
    arguments.add_argument(
        "--json", action="store_true", help="print the receipt instead of a table"
    )
    arguments.add_argument("--output", type=Path, help="also write the receipt to this file")
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if min(sizes) < 100:
        raise argparse.ArgumentTypeError("a size must be at least 100 tokens")
    return sizes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command, those of MODES in their own modules; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    with _sigterm_ends():
        if words and words[0] in MODES:
            return importlib.import_module(MODES[words[0]]).main(words[1:])
        return _main(words)


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """SIGTERM ends a benchmark as Ctrl-C does: no server it started may stay behind. Not by a
    KeyboardInterrupt: where one hits a piece of exec'd text, as dataclasses are made of, Python
    ends the process by SIGINT later on, though it was caught."""

    def interrupt(*_: object) -> None:
        raise SystemExit(ENDED)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _main(words: Sequence[str]) -> int:
    options = parser().parse_args(words)
    try:
        folder = checkpoint_folder(options.model)
        runs, conditions = _measure(options, folder)
    except BenchError as error:
        print(f"mxserve bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mxserve bench: stopped", file=sys.stderr)
        return 130
    result = report.receipt(runs, conditions)
    if options.output is not None:
        options.output.write_text(report.as_text(result) + "\n", encoding="utf-8")
    print(report.as_text(result) if options.json else _page(result, runs))
    return 0


def checkpoint_folder(model: str | None) -> Path | None:
    """The folder of `--model`; None without it. Raises BenchError when there is no such folder."""
    if model is None:
        return None
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise BenchError(f"--model {model}: no config.json there")
    return folder


def _measure(
    options: argparse.Namespace, folder: Path | None
) -> tuple[dict[str, list[Measurement]], dict[str, Any]]:
    key = clients_key() if options.url else None
    banned = _end_tokens(folder, options.url)
    load_before = report.load_average()
    with ExitStack() as open_:
        started: list[servers.ServerProcess] = []
        if not options.url:
            started.append(servers.own_server(folder))
        if options.vs:
            peer = peers.PEERS[options.vs]
            home = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="mxserve-bench-")))
            blas = options.vs_openblas
            started.append(peers.peer_server(peer, folder or DEMO, home=home, openblas=blas))
        clients: dict[str, ChatClient] = {}
        if options.url:
            clients[OURS] = open_.enter_context(ChatClient(options.url, api_key=key))
        for server in started:
            say(f"starting {server.name}")
            open_.enter_context(server)
            client = ChatClient(server.url, model=server.model_name)
            clients[server.name] = open_.enter_context(client)
        runs = _rounds(clients, options, banned)
    conditions = {
        "model": folder.name if folder else "demo" if not options.url else "the server's own",
        "rounds": options.rounds,
        "sizes": list(options.sizes),
        "decode_tokens": workloads.DECODE_TOKENS,
        "end_tokens_banned_while_decoding": bool(banned),
        "peer": peers.PEERS[options.vs].title if options.vs else None,
        "peer_openblas": bool(options.vs_openblas) if options.vs else None,
        "load_average_before": load_before,
        "load_average_after": report.load_average(),
        "order": "rounds interleaved: each round asks every server once",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    return runs, conditions


def _rounds(
    clients: dict[str, ChatClient], options: argparse.Namespace, banned: tuple[int, ...]
) -> dict[str, list[Measurement]]:
    first = next(iter(clients.values()))
    base = int(time.time())  # a server that was measured before must not know the prompts
    filler = workloads.calibrate(first, base)
    for client in clients.values():  # the first answers pay for loading and compiling
        for _ in workloads.prompt_of_length(client, filler, 100, base + 2, banned):
            pass
    runs: dict[str, list[Measurement]] = {name: [] for name in clients}
    for round_ in range(options.rounds):
        say(f"round {round_ + 1} of {options.rounds}")
        for name, client in _turns(clients, round_):
            for size in options.sizes:
                nonce = base + 100_000 * (round_ + 1) + size
                for what, sample in workloads.prompt_of_length(client, filler, size, nonce, banned):
                    runs[name].append(Measurement(what, round_, sample))
        for name, client in _turns(clients, round_):
            for what, sample in workloads.card_chat(client):
                runs[name].append(Measurement(what, round_, sample))
    return runs


def _turns(clients: dict[str, ChatClient], round_: int) -> Iterator[tuple[str, ChatClient]]:
    """Each server once; every other round in the opposite order."""
    pairs = list(clients.items())
    yield from reversed(pairs) if round_ % 2 else pairs


def _end_tokens(folder: Path | None, url: str | None) -> tuple[int, ...]:
    """The ids that end an answer, to be banned where 128 tokens are wanted; empty for a server
    whose checkpoint is not at hand."""
    return () if url and folder is None else end_tokens(folder or DEMO)


def say(text: str) -> None:
    """Progress, beside the result on standard output."""
    print(text, file=sys.stderr, flush=True)


def _page(result: dict[str, Any], runs: dict[str, list[Measurement]]) -> str:
    conditions = result["conditions"]
    return "\n".join(
        [
            report.headline(result),
            f"model: {conditions['model']}; {conditions['rounds']} rounds",
            "",
            report.table(runs),
            "",
            report.NOISE,
        ]
    )
