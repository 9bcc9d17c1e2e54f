"""The command line: `mxserve serve | chat | bench | cache | doctor | service`.

Knows flags and exit statuses; each command's work is in its own module, imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from server import __version__

EXIT_CONFIG = 78  # EX_CONFIG: a restart does not help
EXIT_NOBODY_READS = 141  # as of programs that SIGPIPE ends
ELSEWHERE = {
    "chat": "server.chat",
    "bench": "server.bench",
    "cache": "server.cache_command",
    "convert": "server.convert_command",
    "doctor": "server.doctor",
    "inspect": "server.inspect_command",
    "extract-mtp": "server.extract_mtp_command",
    "service": "server.service",
    "key": "server.key_command",
    "imatrix": "server.imatrix_command",
    "quality": "server.quality_command",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the process's exit status."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and args[0] in ELSEWHERE:
        return _elsewhere(args[0], args[1:])
    flags = vars(parser().parse_args(args))
    flags.pop("command")
    from server.serve import serve
    from server.settings import SettingsError, load_settings

    try:
        settings = load_settings(flags)
    except SettingsError as error:
        print(f"mxserve: {error}", file=sys.stderr)
        return EXIT_CONFIG
    leave(serve(settings))


def _elsewhere(command: str, args: Sequence[str]) -> int:
    try:
        status = importlib.import_module(ELSEWHERE[command]).main(args) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # as in `mxserve inspect demo | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NOBODY_READS
    return status


def leave(status: int) -> NoReturn:
    """Ends the process at once: taking down an interpreter under native threads can abort it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def parser() -> argparse.ArgumentParser:
    """All commands; those of ELSEWHERE have parsers of their own."""
    top = argparse.ArgumentParser(
        prog="mxserve", description="An OpenAI-compatible server for one model."
    )
    top.add_argument("--version", action="version", version=f"mxserve {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve_flags(
        commands.add_parser(
            "serve",
            help="serve a model over HTTP",
            description="Every flag can also be an environment variable (MXSERVE_PORT=...) or a "
            "key of the TOML file given with --config (port = ...); flags win, then the "
            "environment.",
            argument_default=argparse.SUPPRESS,
        )
    )
    commands.add_parser("chat", help="talk to a model in the terminal", add_help=False)
    commands.add_parser("bench", help="measure a server", add_help=False)
    commands.add_parser("cache", help="list or clear the prompt cache on disk", add_help=False)
    commands.add_parser("key", help="make, list or remove keys for clients", add_help=False)
    commands.add_parser("imatrix", help="which inputs of a model texts drive", add_help=False)
    commands.add_parser("quality", help="compare checkpoints with a reference", add_help=False)
    commands.add_parser("convert", help="quantize the original checkpoint", add_help=False)
    commands.add_parser("inspect", help="what is in a checkpoint", add_help=False)
    commands.add_parser("doctor", help="what this machine has and what to do", add_help=False)
    commands.add_parser("extract-mtp", help="the MTP head out of a checkpoint", add_help=False)
    commands.add_parser("service", help="a server that starts at login", add_help=False)
    return top


def serve_parser() -> argparse.ArgumentParser:
    """The flags of `mxserve serve` alone."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    _add_serve_flags(parser)
    return parser


def _add_serve_flags(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add("--config", metavar="FILE", help="TOML file with settings")
    add("--model", metavar="PATH|ID", help="checkpoint folder or hub id (default: embedded demo)")
    add("--served-model-name", metavar="NAME", help="model name that clients see")
    add("--host", help="address to listen on (default: localhost, IPv4 and IPv6)")
    add("--port", help="port to listen on, 0 for any free one (default: 8080)")
    add("--max-queue", metavar="N", help="requests that may wait; more get a 429 (default: 64)")
    add("--max-batch", metavar="N", help="answers written at the same time (default: 16)")
    add("--target-gap", metavar="S", help="longest wait between two tokens (default: 120ms)")
    add("--deterministic", action="store_true", help="same tokens alone or in a batch; slower")
    add(
        "--kernels",
        metavar="auto|off|NAME,...",
        help="fused kernels: those that prove right and faster, none, or these if right "
        "(default: auto; mxserve doctor lists them)",
    )
    add("--keep-warm", metavar="S|off", help="keep an idle GPU fast so long (default: off)")
    add("--idle-unload", metavar="MIN", help="free the weights after so long without a request")
    add("--mtp", metavar="PATH", help="file or folder with the MTP head (default: the model's own)")
    add(
        "--mtp-depth",
        metavar="auto|0|1|2|3",
        help="tokens guessed ahead; auto: where it pays (default: auto)",
    )
    add("--watchdog", metavar="S", help="longest time of one step; then exit 70 (default: 60)")
    add("--cache-bytes", metavar="SIZE", help="prompt cache, 0 is off (default: follows memory)")
    add("--disk-cache", metavar="DIR|off", help="prompt cache on disk (default: per-user folder)")
    add("--disk-cache-bytes", metavar="SIZE", help="its largest size, 0 is off (default: 20GiB)")
    add(
        "--response-store",
        metavar="DIR|memory|off",
        help="where responses are kept for previous_response_id (default: per-user folder)",
    )
    add("--response-store-bytes", metavar="SIZE", help="its largest size (default: 1GiB)")
    add(
        "--effort-budgets",
        metavar="low=N,...",
        help="thinking tokens of each reasoning effort, or none for no limit "
        "(default: minimal=256,low=1024,medium=4096,high=16384,xhigh=none,max=none)",
    )
    add("--request-timeout", metavar="S", help="longest time for one request (default: none)")
    add("--max-body-bytes", metavar="SIZE", help="largest request body (default: 32MiB)")
    add("--max-connections", metavar="N", help="open at the same time (default: 1000)")
    add("--header-timeout", metavar="S", help="longest time for a request's head (default: 10)")
    add("--body-timeout", metavar="S", help="longest time for a body to arrive (default: 30)")
    add("--ping-interval", metavar="S", help="keep-alive comment in quiet streams (default: 10)")
    add("--send-timeout", metavar="S", help="cut a reader that stopped reading (default: 60)")
    add("--drain-timeout", metavar="S", help="time to finish requests at a stop (default: 30)")
    add(
        "--api-key",
        action="append",
        metavar="KEY",
        help="key clients must send, repeatable; needed off loopback (better: --key-file)",
    )
    add("--key-file", metavar="FILE", help="hashes of such keys, as mxserve key new makes them")
    add(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="browser origin that may call, * for any; repeatable (default: none)",
    )
    add(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="further Host name to answer to; repeatable",
    )
    add("--strict-model", action="store_true", help="404 for another model's name")
    add("--no-page", action="store_true", help="no page for browsers at /")
    add("--metrics-open", action="store_true", help="/metrics needs no key")
    add("--log-format", choices=("text", "json"), help="of log lines (default: text)")
    add("--log-prompts", action="store_true", help="put what people write into the log")
    add("--log-file", metavar="FILE", help="log there, 10 MiB and five older ones are kept")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
