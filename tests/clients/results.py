"""What a run found, and the forms it is shown in: a table, JSON, Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One thing tried. `expected` is why a failure is known and does not fail the run."""

    name: str
    passed: bool
    seconds: float
    error: str | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One client's checks; `failure` tells why an exercise did not come to its end."""

    name: str
    kind: str
    version: str
    apis: tuple[str, ...]
    checks: tuple[Check, ...]
    seconds: float
    install_seconds: float
    bytes: int
    failure: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def wrong(self) -> bool:
        """Whether anything failed that was expected to pass."""
        failed = any(not check.passed and not check.expected for check in self.checks)
        return bool(self.failure) or failed or not self.checks

    @property
    def passed(self) -> int:
        return sum(check.passed for check in self.checks)


def table(results: list[Result]) -> str:
    """One line a client, and below it what failed."""
    lines = [f"{'client':<18}{'version':<12}{'api':<26}{'passed':>8}{'seconds':>9}  "]
    for result in results:
        count = f"{result.passed}/{len(result.checks)}"
        word = "FAILED" if result.wrong else "ok"
        apis = ", ".join(result.apis)
        lines.append(
            f"{result.name:<18}{result.version:<12}{apis:<26}{count:>8}{result.seconds:>9.1f}"
            f"  {word}"
        )
        if result.failure:
            lines.append(f"    {_short(result.failure)}")
        for check in result.checks:
            if not check.passed:
                why = f" (known: {check.expected})" if check.expected else ""
                lines.append(f"    {check.name}: {_short(check.error or '')}{why}")
        lines.extend(f"    note: {note}" for note in result.notes)
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 700 else f"{line[:340]} ... {line[-340:]}"


def as_json(results: list[Result], about: dict[str, Any]) -> str:
    """`about` (when, where, what) and the results."""
    clients = [{**asdict(result), "passed": not result.wrong} for result in results]
    return json.dumps({**about, "clients": clients}, indent=1)


def markdown(report: dict[str, Any]) -> str:
    """The table of docs/clients.md from what `as_json` wrote."""
    lines = [
        "| client | version | API | what was tried | passed |",
        "| --- | --- | --- | --- | --- |",
    ]
    for client in report["clients"]:
        checks = client["checks"]
        tried = "; ".join(check["name"] for check in checks)
        if client["kind"] == "oracle":
            tried = "its own checks"
        count = f"{sum(check['passed'] for check in checks)} of {len(checks)}"
        lines.append(
            f"| {client['name']} | {client['version']} | {', '.join(client['apis'])} | {tried} | "
            f"{count}{_failures(client)} |"
        )
    return "\n".join(lines)


def _failures(client: dict[str, Any]) -> str:
    """What did not pass and why, behind the count; nothing where everything did."""
    by_reason: dict[str, list[str]] = {}
    for check in client["checks"]:
        if not check["passed"]:
            by_reason.setdefault(check["expected"] or "FAILED", []).append(check["name"])
    if client["failure"]:
        by_reason["FAILED"] = [*by_reason.get("FAILED", []), _short(client["failure"])]
    told = "; ".join(f"{', '.join(names)}: {why}" for why, names in by_reason.items())
    return f" ({told})" if told else ""


BEGIN, END = "<!-- table -->", "<!-- /table -->"


def published(document: str, report: dict[str, Any]) -> str:
    """The document with the report's table between its two marks."""
    head, _, rest = document.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"no {BEGIN} and {END} in the document")
    about = (
        f"Tried on {report['date']} with mxserve {report['mxserve']} and its demo model, "
        f"{report['system']}, Python {report['python']}."
    )
    return f"{head}{BEGIN}\n{about}\n\n{markdown(report)}\n{END}{tail}"
