"""`mxserve doctor`: what this machine has, which kernels run on it, and what to do, in plain words.

Loads the model, the embedded demo if none is named, because kernels are tried on its own weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model.kernel_choice import parse_choice
from server import __version__
from server.advice import Kernel, LoadedModel, advice
from server.limits import Limits
from server.loading_bar import LoadingBar

if TYPE_CHECKING:
    from model.machine import Machine

EXIT_NO_MODEL = 1
_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Report:
    """Everything found. model: None where it did not load, and `failure` says why."""

    machine: Machine
    model: LoadedModel | None
    kernels: tuple[Kernel, ...]
    failure: str | None = None
    limits: Limits | None = None

    def advice(self) -> list[str]:
        """What to do about it; empty when there is nothing."""
        steps = advice(self.machine, self.model, self.kernels)
        return steps if self.limits is None else [*steps, *self.limits.advice()]

    def to_json(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "mxserve": __version__,
            "machine": asdict(self.machine),
            "limits": None if self.limits is None else asdict(self.limits),
            "model": None if self.model is None else asdict(self.model),
            "failure": self.failure,
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "advice": self.advice(),
        }


def main(argv: Sequence[str]) -> int:
    """Runs `mxserve doctor ARGV`; returns the exit status."""
    options = _parser().parse_args(argv)
    report = examine(options.model, options.kernels)
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print(text(report))
    return EXIT_NO_MODEL if report.failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mxserve doctor",
        description="Says what this machine has, tries the fused kernels on a model's own weights, "
        "and what would make it faster or right.",
    )
    parser.add_argument(
        "--model", metavar="PATH|ID", help="checkpoint folder or hub id (default: embedded demo)"
    )
    parser.add_argument(
        "--kernels",
        metavar="auto|off|NAME,...",
        type=_choice,
        default="auto",
        help="which kernels to try (default: auto)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _choice(text: str) -> Any:
    try:
        return parse_choice(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def examine(path: str | None, kernels: Any) -> Report:
    """Loads the model and looks at everything."""
    from model.errors import CheckpointError
    from model.loading import load_model
    from model.machine import Machine

    machine = Machine.now()
    try:
        model = load_model(path, progress=LoadingBar(sys.stderr), kernels=kernels)
    except (CheckpointError, OSError) as error:
        return Report(machine, None, (), failure=str(error), limits=Limits.now())
    loaded = LoadedModel(
        name=model.name,
        is_demo=model.is_demo,
        layers=model.config.num_hidden_layers,
        dequantized=model.dequantized,
        bytes=model.memory().active_bytes,
    )
    rows = tuple(Kernel(**asdict(row)) for row in model.kernel_rows)
    return Report(machine, loaded, rows, limits=Limits.now())


def text(report: Report) -> str:
    """The report for a terminal."""
    machine = report.machine
    versions = ", ".join(f"{name} {found}" for name, found in machine.versions.items())
    architecture = f", {machine.architecture}" if machine.architecture else ""
    facts = [
        ("versions", f"{versions}, Python {machine.python}"),
        ("system", f"{machine.system}, {machine.machine}"),
        ("device", f"{machine.kind} ({machine.chip}{architecture}), {machine.compute_dtype}"),
        ("memory", _memory(machine)),
        *([("limits", report.limits.text())] if report.limits is not None else []),
        ("BLAS", machine.blas),
        ("command buffers", _command_buffers(machine)),
        ("model", _model(report)),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {fact}" for name, fact in facts]
    if report.kernels:
        lines += ["", *_table(report.kernels)]
    steps = report.advice()
    lines += ["", *(f"- {step}" for step in steps or ["Nothing to do."])]
    return "\n".join(lines)


def _memory(machine: Machine) -> str:
    parts = f"{_gib(machine.memory_total)}, {_gib(machine.memory_available)} free for a model"
    if machine.working_set is not None:
        parts += f"; macOS recommends at most {_gib(machine.working_set)} for one process"
    return parts


def _command_buffers(machine: Machine) -> str:
    if machine.kind != "metal":
        return "none: no Metal"
    values = ", ".join(f"{name}={value}" for name, value in machine.command_buffers.items())
    return f"{values} (set by {machine.command_buffers_by})" if values else "mlx's own limits"


def _model(report: Report) -> str:
    model = report.model
    if model is None:
        return f"not loaded: {report.failure}"
    form = "as float32" if model.dequantized else "as stored"
    return f"{model.name}, {model.layers} layers, {_gib(model.bytes)} {form}"


def _table(kernels: Sequence[Kernel]) -> list[str]:
    rows = [("kernel", "runs", "error", "twin us", "kernel us", "why")]
    for kernel in kernels:
        rows.append(
            (
                kernel.name,
                f"kernel {kernel.size}".strip()
                if kernel.admitted
                else f"twin {kernel.twin}".strip(),
                "" if kernel.error is None else f"{kernel.error:.1e}",
                "" if kernel.twin_us is None else f"{kernel.twin_us:.1f}",
                "" if kernel.kernel_us is None else f"{kernel.kernel_us:.1f}",
                kernel.reason,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return [
        "  ".join(
            [f"{row[0]:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
            + [f"{row[column]:>{widths[column]}}" for column in (2, 3, 4)]
            + [row[5]]
        ).rstrip()
        for row in rows
    ]


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB // 10 else f"{size / (1 << 20):.0f} MiB"
