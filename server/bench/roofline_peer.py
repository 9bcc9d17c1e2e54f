"""mlx-lm's decode step, counted and timed by our counter in mlx-lm's own environment."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.bench import peers
from server.bench.client import BenchError
from server.bench.decode_workers import MODEL_PACKAGE


def measured(geometry: str, context: int, host_calls: int) -> dict[str, Any]:
    """Version, launches by part at a named geometry, and the host's time. Raises BenchError."""
    flags = ["--geometry", geometry, "--context", str(context)]
    counted, timed = _run(flags), _run([*flags, "--host", str(host_calls)])
    parts: dict[str, dict[str, int]] = {}
    for part, kind, count in counted["launches"]:
        parts.setdefault(part, {})[kind] = count
    return {
        "version": counted["version"],
        "launches_per_token": sum(count for _, _, count in counted["launches"]),
        "parts": parts,
        "command_buffers": counted["command_buffers"],
        "host": spread_us(timed["microseconds"]),
    }


def spread_us(times: Sequence[float]) -> dict[str, float]:
    """Median, least and most of microseconds."""
    return {
        "median_us": statistics.median(times),
        "least_us": min(times),
        "most_us": max(times),
        "count": len(times),
    }


def _run(flags: Sequence[str]) -> dict[str, Any]:
    python = peers.interpreter(peers.PEERS["mlx-lm"])
    with tempfile.TemporaryDirectory(prefix="mxserve-bench-") as folder:
        # Only our own package: what stands beside it may be another mlx.
        (Path(folder) / "model").symlink_to(MODEL_PACKAGE, target_is_directory=True)
        done = subprocess.run(  # noqa: S603 - our own command line
            [str(python), "-m", "model.launches.mlx_lm_step", *flags],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": folder},
        )
    if done.returncode:
        raise BenchError(f"mlx-lm's step: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
