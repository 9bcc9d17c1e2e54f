"""`mxserve bench roofline`: what one decoded token costs, and what the memory's speed allows.

Bytes read by part, kernel launches by part as Metal would make them, the host's time to call a
step, and the memory bandwidth of this device; with a model at hand, the decode speed it reaches.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model import command_buffers
from model import device as devices
from model.bytes_read import (
    CONTEXTS,
    guess_bytes,
    kv_bytes,
    state_bytes,
    total_bytes,
    weight_bytes,
)
from model.command_buffers import ELEMENTS, OPS
from model.errors import CheckpointError
from model.geometry import NAMES, Geometry, named, of_checkpoint, toy
from model.launches import counts
from model.launches.blank_guess import CONTROLS
from model.launches.decode import CONTEXT, Case, count_step, whole_step
from model.measure.bandwidth import measured_bandwidth
from model.measure.host import host_times
from model.mtp_flight import MOST_DEPTH
from model.sampling import SamplingParams
from server.bench import receipt, report, roofline_peer
from server.bench.client import BenchError
from server.bench.command import checkpoint_folder, say
from server.bench.decode_workers import own_worker
from server.bench.roofline_report import page

REAL = "qwen3.6-35b-a3b"
HOST_CALLS = 30
# Launches and units of 2^20 elements after which a command buffer ends: mlx's on a Max chip, ours.
BUFFER_LIMITS = {
    "mlx's limits": (50, 50),
    "mxserve's": (command_buffers.VALUES[OPS], command_buffers.VALUES[ELEMENTS]),
}
# What the checkpoint advises.
ADVISED = SamplingParams(temperature=1.0, top_k=20, top_p=0.95)
ROUNDS = 3
DECODE_CONTEXT, DECODE_TOKENS = 128, 64


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="mxserve bench roofline", description=__doc__)
    add = arguments.add_argument
    what = arguments.add_mutually_exclusive_group()
    what.add_argument("--geometry", choices=NAMES, default=REAL, help=f"default: {REAL}")
    what.add_argument("--model", help="a checkpoint's folder, or demo: also measured")
    add("--bandwidth", type=float, metavar="GB/S", help="take this instead of measuring it")
    add("--vs", choices=["mlx-lm"], help="count and time mlx-lm's step too")
    receipt.add_output_flags(arguments, plot=False)
    return arguments


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    if options.vs and options.model:
        arguments.error("--vs counts at a named --geometry")
    before = report.load_average()
    try:
        folder = _folder(options.model)
        geometry = named(options.geometry) if options.model is None else of_checkpoint(folder)
        found = roofline(geometry, options, folder)
    except (BenchError, CheckpointError) as error:
        return receipt.failed("roofline", error)
    except KeyboardInterrupt:
        return receipt.stopped("roofline")
    conditions = {
        "geometry": geometry.name,
        "launches_counted_after_tokens": CONTEXT,
        "launches_are": "those of MLX's Metal back end, counted, not measured",
        "sampling": "greedy; sampled: temperature 1, top_k 20, top_p 0.95",
        "host_time_is": "calling the step of a toy with as many layers, not computing it",
        "device": devices.current().kind,
    }
    made = receipt.head(receipt.command_line("roofline", argv), conditions, before)
    receipt.show(options, made | found, page(found))
    return 0


def _folder(model: str | None) -> Path:
    from server.bench.servers import DEMO

    return DEMO if model in (None, "demo") else checkpoint_folder(model) or DEMO


def roofline(geometry: Geometry, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every figure, as JSON values."""
    say("counting launches")
    every, twins = (_launches(geometry, Case(kernels=kernels)) for kernels in (True, False))
    sampled = _launches(geometry, Case(kernels=True, sampling=ADVISED))
    found: dict[str, Any] = {
        "launches_per_token": every["total"],
        "bytes_per_token": 0,
        "host_us_per_token": 0.0,
        "launches": {
            "with_every_kernel": every,
            "with_every_kernel_sampled": sampled,
            "with_twins_only": twins,
        },
        "bytes": _bytes(geometry),
        "guesses": _guesses(geometry),
        "host": _host(geometry),
    }
    found["bytes_per_token"] = found["bytes"]["total"]["0"]
    found["host_us_per_token"] = found["host"]["as_it_runs_here"]["median_us"]
    if options.vs:
        say("counting mlx-lm's launches")
        found["mlx-lm"] = roofline_peer.measured(geometry.name, CONTEXT, HOST_CALLS)
    if options.bandwidth:
        found["bandwidth"] = {"bytes_per_second": options.bandwidth * 1e9, "measured": False}
    else:
        say("measuring memory bandwidth")
        found["bandwidth"] = {"bytes_per_second": measured_bandwidth(), "measured": True}
    speed = found["bandwidth"]["bytes_per_second"]
    found["limit_tok_s"] = {at: speed / size for at, size in found["bytes"]["total"].items()}
    if options.model:
        found["reached"] = _reached(geometry, folder, speed)
    return found


def _launches(geometry: Geometry, case: Case) -> dict[str, Any]:
    parts: dict[str, dict[str, int]] = {}
    for (part, kind), count in sorted(count_step(geometry, case).items()):
        parts.setdefault(part, {})[kind] = count
    step = whole_step(geometry, case)
    return {
        "total": sum(sum(kinds.values()) for kinds in parts.values()),
        "parts": parts,
        "command_buffers": {
            name: counts.command_buffers(step, operations=operations, megabytes=megabytes)
            for name, (operations, megabytes) in BUFFER_LIMITS.items()
        },
    }


def _guesses(geometry: Geometry) -> dict[str, Any]:
    """Guesses in a step -> its launches with every kernel, and the bytes that it reads more."""
    return {
        str(count): {
            "launches": count_step(geometry, Case(kernels=True, guesses=count)).total(),
            "more_bytes": {k: round(v) for k, v in guess_bytes(geometry, count, CONTROLS).items()},
        }
        for count in range(1, MOST_DEPTH + 1)
    }


def _bytes(geometry: Geometry) -> dict[str, Any]:
    weights, state = weight_bytes(geometry), state_bytes(geometry)
    kv = {str(context): kv_bytes(geometry, context) for context in CONTEXTS}
    return {
        "weights": {part: round(size) for part, size in weights.items()},
        "recurrent state, read and written": round(state),
        "kv": {context: round(size) for context, size in kv.items()},
        "total": {at: round(total_bytes(weights, state, size)) for at, size in kv.items()},
    }


def _host(geometry: Geometry) -> dict[str, Any]:
    say("timing the host")
    small, on_gpu = toy(geometry), devices.current().kind != "cpu"
    found: dict[str, Any] = {"network": small.name}
    for name, as_metal in (("as_it_runs_here", False), ("traced_for_metal", True)):
        times = host_times(small, HOST_CALLS, as_metal=as_metal, on_gpu=on_gpu)
        found[name] = roofline_peer.spread_us(times)
    return found


def _reached(geometry: Geometry, folder: Path, speed: float) -> dict[str, Any]:
    """Decode speed of the model itself, and its share of what the bytes it reads here allow."""
    rates = []
    with own_worker(folder) as worker:
        dequantized = bool(worker.about["dequantized"])
        free = devices.current().memory_available
        for round_ in range(ROUNDS):
            say(f"decoding, round {round_ + 1} of {ROUNDS}")
            answer = worker.ask(
                "decode", context=DECODE_CONTEXT, tokens=DECODE_TOKENS, free_bytes=free
            )
            if "skipped" in answer:
                raise BenchError(f"decode: {answer['skipped']}")
            rates.append(DECODE_TOKENS / answer["seconds"])
    item = 4 if worker.about["device"] == "cpu" else 2
    size = total_bytes(
        weight_bytes(geometry, dequantized=dequantized),
        state_bytes(geometry, activation_bytes=item),
        kv_bytes(geometry, DECODE_CONTEXT, activation_bytes=item),
    )
    rate = statistics.median(rates)
    return {
        "tok_s": rate,
        "least_tok_s": min(rates),
        "most_tok_s": max(rates),
        "after_tokens": DECODE_CONTEXT,
        "bytes_per_token_here": round(size),
        "weights_here": "float32" if dequantized else "as stored",
        "limit_tok_s_here": speed / size,
        "share_of_limit": rate * size / speed,
    }
