"""`mxserve bench serve`: reads the arguments, lets the servers take turns under load, reports.

Every server is up all the time and idle while another is measured; each round asks each of them,
every other round in the opposite order. `--soak` measures mxserve alone, for minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.bench import chart, load, peers, report, serve_report, soak, soak_page, workloads
from server.bench.client import BenchError, ChatClient, ChatOptions
from server.bench.command import checkpoint_folder, say
from server.bench.ideal import end_tokens
from server.bench.serve_report import Rounds
from server.bench.servers import DEMO, OURS, ServerProcess
from server.bench.streams import StreamClient
from server.bench.workloads import Filler
from server.keys import clients_key

STREAMS = (1, 2, 4, 8, 16)
ENDLESS_TOKENS = 16_384
REFERENCES = 64
SOAK_FLAGS = ("--response-store", "memory")


@dataclass(frozen=True, slots=True)
class Server:
    """One that is measured. process: None when somebody else started it."""

    url: str
    model: str
    api_key: str | None
    process: ServerProcess | None = None

    def client(self) -> StreamClient:
        """A client of its own for each event loop."""
        return StreamClient(self.url, model=self.model, api_key=self.api_key)


def parser() -> argparse.ArgumentParser:
    """The command line of `mxserve bench serve`."""
    arguments = argparse.ArgumentParser(
        prog="mxserve bench serve",
        description="Measures many streams at once: their sum, the gaps between tokens and the "
        "time to the first one, and running streams beside a long prompt.",
    )
    add = arguments.add_argument
    add("--url", help="measure the server at this address instead of starting one")
    add("--model", help="checkpoint folder (default: the embedded demo)")
    add("--vs", action="append", choices=list(peers.PEERS), default=[], help="repeatable")
    add("--vs-openblas", action="store_true", help="Linux: give the others OpenBLAS too")
    add("--streams", type=_numbers, help="default: 1,2,4,8,16; with --soak: 64")
    add("--seconds", type=_positive, default=10.0, help="of each measurement (default: 10)")
    add("--rounds", type=int, default=3, help="default: 3")
    add("--answer-tokens", type=int, default=128, help="of each answer (default: 128)")
    add("--prompt-words", type=int, default=20, help="of each short prompt (default: 20)")
    add(
        "--warm-up",
        type=int,
        default=24,
        help="tokens of each answer before (0: none; default: 24)",
    )
    add("--rest", type=float, default=0.0, help="idle seconds before each measurement")
    add("--long-prompt", type=int, default=8000, help="its tokens, 0: none (default: 8000)")
    add("--beside", type=int, default=4, help="streams running beside it (default: 4)")
    add("--soak", type=_positive, metavar="MINUTES", help="clients of all dialects instead")
    add("--kill", action="store_true", help="with --soak: kill -9 and restart in the middle")
    add("--seed", type=int, default=1, help="of the soak's requests and disconnects (default: 1)")
    add("--serve-flag", action="append", default=[], metavar="FLAG", help="for mxserve serve")
    add("--json", action="store_true", help="print the receipt instead of tables")
    add("--output", type=Path, help="also write the receipt to this file")
    add("--plot", type=Path, help="write charts (SVG) to this file")
    return arguments


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(sorted({int(part) for part in text.split(",")}))
    if numbers[0] < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return numbers


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status: 1 also when a request failed."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.kill and (options.url or not options.soak):
        arguments.error("--kill needs --soak, and a server of its own: leave --url out")
    if options.soak and options.vs:
        arguments.error("--soak measures mxserve alone: leave --vs out")
    try:
        with ExitStack() as open_:
            folder = checkpoint_folder(options.model)
            servers = _start(options, folder, open_)
            banned = () if options.url and folder is None else end_tokens(folder or DEMO)
            return (_soak if options.soak else _load)(options, servers, banned)
    except BenchError as error:
        print(f"mxserve bench serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mxserve bench serve: stopped", file=sys.stderr)
        return 130


def _start(options: argparse.Namespace, folder: Path | None, open_: ExitStack) -> dict[str, Server]:
    found: dict[str, Server] = {}
    names = list(dict.fromkeys(options.vs))
    if options.url:
        key = clients_key()
        with ChatClient(options.url, api_key=key) as client:
            found[OURS] = Server(options.url, client.model_id(), key)
    else:
        names.insert(0, OURS)
    for name in names:
        scratch = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="mxserve-bench-")))
        server = peers.contender(
            name,
            folder,
            scratch=scratch,
            flags=(*(SOAK_FLAGS if options.soak else ()), *options.serve_flag),
            openblas=options.vs_openblas,
        )
        say(f"starting {server.name}")
        open_.enter_context(server)
        found[server.name] = Server(server.url, server.called(), None, server)
    return found


def _load(options: argparse.Namespace, servers: dict[str, Server], banned: tuple[int, ...]) -> int:
    before = report.load_average()
    nonce = itertools.count(int(time.time()))  # no server may know a prompt
    filler = _filler(next(iter(servers.values())), nonce) if options.long_prompt else None
    runs = {name: Rounds() for name in servers}
    for server in servers.values():  # the first answers pay for loading and compiling
        for streams in (options.streams or STREAMS) if options.warm_up else ():
            ask = _short(options, nonce, banned, options.warm_up)
            asyncio.run(_warm_up(server, ask, streams))
    for round_ in range(options.rounds):
        turns = list(servers.items())[:: -1 if round_ % 2 else 1]
        for streams in options.streams or STREAMS:
            for name, server in turns:
                say(f"round {round_ + 1} of {options.rounds}: {streams} streams: {name}")
                time.sleep(options.rest)
                ask = _short(options, nonce, banned, options.answer_tokens)
                measured = asyncio.run(_level(server, ask, streams, options.seconds))
                runs[name].levels.setdefault(streams, []).append(measured)
        if filler is None:
            continue
        for name, server in turns:
            say(f"round {round_ + 1} of {options.rounds}: a long prompt: {name}")
            time.sleep(options.rest)
            ask = _short(options, nonce, banned, ENDLESS_TOKENS)
            long = _long(filler, options.long_prompt, next(nonce))
            runs[name].beside.append(asyncio.run(_beside(server, ask, long, options.beside)))
    receipt = {**_receipt(options, before), **serve_report.runs_json(runs)}
    _show(options, receipt, serve_report.page(runs), serve_report.panels(runs))
    return 1 if any(rounds.errors for rounds in runs.values()) else 0


def _soak(options: argparse.Namespace, servers: dict[str, Server], banned: tuple[int, ...]) -> int:
    before = report.load_average()
    server = servers[OURS]
    asked = soak.requests(REFERENCES, options.seed, banned)
    seconds, process = 60 * options.soak, server.process
    plan = soak.Plan(
        max(options.streams or (64,)),
        seconds,
        options.seed,
        kill_at_s=seconds / 2 if options.kill else None,
    )

    def restart() -> int | None:
        if process is None:
            return None
        process.restart(kill=True)
        return process.pid

    async def measure() -> soak.Soak:
        async with server.client() as client:
            say(f"asking {len(asked)} reference answers")
            answers = await soak.references(client, asked)
            say(f"{plan.streams} streams for {options.soak:g} minutes")
            pid = process.pid if process is not None else None
            return await soak.soak(
                client, asked, answers, plan, pid=pid, restart=restart, progress=say
            )

    found = asyncio.run(measure())
    receipt = {**_receipt(options, before), "soak": found.as_json()}
    _show(options, receipt, soak_page.soak_page(found), soak_page.soak_panels(found))
    return 1 if found.failures else 0


def _short(
    options: argparse.Namespace, nonce: itertools.count[int], banned: tuple[int, ...], tokens: int
) -> Callable[[], dict[str, Any]]:
    """A new short prompt each time, with an answer of exactly `tokens` tokens."""
    chat = ChatOptions(max_tokens=tokens, banned=banned)

    def body() -> dict[str, Any]:
        text = workloads.words(options.prompt_words, next(nonce))
        return chat.body("", [{"role": "user", "content": text}])

    return body


def _filler(server: Server, nonce: itertools.count[int]) -> Filler:
    with ChatClient(server.url, model=server.model, api_key=server.api_key) as client:
        filler = workloads.calibrate(client, next(nonce))
    next(nonce)  # it took two
    return filler


def _long(filler: Filler, tokens: int, nonce: int) -> dict[str, Any]:
    messages = workloads.dialogue(filler.text(tokens, nonce))
    return ChatOptions(max_tokens=8).body("", messages)


async def _warm_up(server: Server, ask: Callable[[], dict[str, Any]], streams: int) -> None:
    async with server.client() as client:
        some = await asyncio.gather(*(client.ask(ask()) for _ in range(streams)))
    errors = [one.error for one in some if one.error]
    if len(errors) == len(some):
        raise BenchError(f"{server.url}: every request of the warm-up failed: {errors[0]}")


async def _level(
    server: Server, ask: Callable[[], dict[str, Any]], streams: int, seconds: float
) -> load.Level:
    async with server.client() as client:
        return await load.level(client, ask, streams, seconds)


async def _beside(
    server: Server, ask: Callable[[], dict[str, Any]], long: dict[str, Any], streams: int
) -> load.Beside:
    async with server.client() as client:
        return await load.beside(client, ask, long, streams)


def _receipt(options: argparse.Namespace, before: list[float]) -> dict[str, Any]:
    return {
        "machine": report.machine(),
        "versions": report.versions(),
        "conditions": {
            "model": Path(options.model).name if options.model else "demo",
            "peers": [peers.PEERS[name].title for name in options.vs],
            "peer_openblas": bool(options.vs_openblas) if options.vs else None,
            "serve_flags": options.serve_flag,
            "seconds": options.seconds,
            "rounds": options.rounds,
            "answer_tokens": options.answer_tokens,
            "prompt_words": options.prompt_words,
            "warm_up_tokens": options.warm_up,
            "rest_s": options.rest,
            "long_prompt_tokens": options.long_prompt,
            "streams_beside_it": options.beside,
            "soak_minutes": options.soak,
            "seed": options.seed,
            "order": "rounds interleaved: each round asks every server once",
            "load_average_before": before,
            "load_average_after": report.load_average(),
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def _show(
    options: argparse.Namespace,
    receipt: dict[str, Any],
    page: str,
    panels: Sequence[chart.Panel],
) -> None:
    text = report.as_text(receipt)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    if options.plot is not None and panels:
        options.plot.write_text(chart.svg(panels), encoding="utf-8")
    print(text if options.json else f"{report.headline(receipt)}\n\n{page}")
