"""`mxserve bench convert SRC`: a conversion's speed and memory, and that kills change nothing.

Runs `mxserve convert` as its users do, in processes of its own: once whole; then killed with
SIGKILL after random times until it is through, and the files of both compared by their bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.bench import report

_MIB = 1 << 20
_CHUNK = 16 << 20


def main(argv: Sequence[str]) -> int:
    """Runs the benchmark; 1 where a killed conversion ended with other bytes."""
    options = _parser().parse_args(argv)
    before = report.load_average()
    with tempfile.TemporaryDirectory(prefix="mxserve-convert-", dir=options.work) as work:
        measured = measure(options, Path(work))
    receipt = {
        "machine": report.machine(),
        "versions": report.versions(),
        "conditions": {
            "command": f"mxserve bench convert SRC --recipe {options.recipe} --kills "
            f"{options.kills} --seed {options.seed}",
            "load_average_before": before,
            "load_average_after": report.load_average(),
            "date": datetime.now(UTC).date().isoformat(),
        },
        **measured,
    }
    text = json.dumps(receipt, indent=2)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text if options.json else _text(receipt))
    return 0 if measured["killed"]["identical"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mxserve bench convert", description=__doc__)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of an original checkpoint")
    parser.add_argument("--recipe", default="ud-mxfp8")
    parser.add_argument("--kills", type=int, default=5, help="at most so many (default: 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="where there is room for two results")
    parser.add_argument("--json", action="store_true", help="print the receipt")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the receipt here")
    return parser


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Both conversions; sizes in bytes, times in seconds."""
    size = sum(file.stat().st_size for file in options.source.glob("*.safetensors"))
    seconds, status, usage = _run(_command(options, work / "whole"), None)
    if status:
        raise SystemExit(f"the conversion ended with status {status}")
    draw = random.Random(options.seed)
    kills: list[float] = []
    peaks: list[int] = []
    total = 0.0
    while True:
        limit = draw.uniform(0.05, 0.6) * seconds if len(kills) < options.kills else None
        took, status, used = _run(_command(options, work / "killed"), limit)
        peaks.append(_resident(used))
        total += took
        if status != -signal.SIGKILL:
            break
        kills.append(round(took, 2))
    whole, killed = _digests(work / "whole"), _digests(work / "killed")
    return {
        "source": {"bytes": size, "largest_tensor": _largest(options.source)},
        "whole": {
            "seconds": round(seconds, 2),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "mb_per_s": round(size / seconds / 1e6, 1),
            "peak_rss_bytes": _resident(usage),
            "bytes": sum(path.stat().st_size for path in (work / "whole").iterdir()),
        },
        "killed": {
            "after_seconds": kills,
            "status": status,
            "seconds_in_all": round(total, 2),
            "peak_rss_bytes": max(peaks),
            "identical": status == 0 and whole == killed,
            "files": len(whole),
        },
    }


def _command(options: argparse.Namespace, target: Path) -> list[str]:
    command = [sys.executable, "-m", "server", "convert", str(options.source), str(target)]
    return [*command, "--recipe", options.recipe]


def _run(command: list[str], limit: float | None) -> tuple[float, int, resource.struct_rusage]:
    """(seconds, status, what it used) of a process that is killed after `limit` seconds."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        elapsed = time.monotonic() - begin
        if found:
            break
        if limit is not None and elapsed >= limit:
            process.kill()
            limit = None
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    return elapsed, process.returncode, usage


def _resident(usage: resource.struct_rusage) -> int:
    """The most bytes that were in memory at once."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def _largest(folder: Path) -> int:
    from model.safetensors_files import stored_tensors

    return max(tensor.nbytes for tensor in stored_tensors(folder).values())


def _text(receipt: dict[str, Any]) -> str:
    source, whole, killed = receipt["source"], receipt["whole"], receipt["killed"]
    same = "the same bytes" if killed["identical"] else "OTHER BYTES"
    return "\n".join(
        (
            f"{source['bytes'] / 1e9:.2f} GB, largest tensor {source['largest_tensor'] / _MIB:.0f} "
            "MiB",
            f"whole   {whole['seconds']} s ({whole['cpu_seconds']} s of a processor), "
            f"{whole['mb_per_s']} MB/s of the source, at most "
            f"{whole['peak_rss_bytes'] / _MIB:.0f} MiB resident",
            f"killed  after {killed['after_seconds']} s, {killed['seconds_in_all']} s in all, at "
            f"most {killed['peak_rss_bytes'] / _MIB:.0f} MiB: {same} in {killed['files']} files",
        )
    )
