"""The table of figures in README.md, made from the receipts in docs/benchmarks.

`python -m tests.docs.figures` writes it anew, after a benchmark was.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
FOLDER = ROOT / "docs" / "benchmarks"
CHAT, STREAMS, SOAK = "linux-2core", "serve-peers-2core", "soak-2core"
REPLAY, RESTART = "replay-2core", "replay-restart-2core"


def receipt(name: str) -> dict[str, Any]:
    """A benchmark's whole receipt."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def compared(name: str, figure: str) -> tuple[str, str]:
    """The medians of mxserve and mlx-lm, with their unit."""
    (found,) = [item for item in receipt(name)["figures"] if item["name"] == figure]
    ours, theirs = (found["servers"][server]["median"] for server in ("mxserve", "mlx-lm"))
    return f"{ours:,.0f} {found['unit']}", f"{theirs:,.0f} {found['unit']}"


def per_new(name: str, trace: str) -> str:
    """Prompt tokens that were computed, for each that was new."""
    (found,) = [item for item in receipt(name)["traces"] if item["trace"] == trace]
    return f"{found['servers']['mxserve']['figures']['all']['per_new']:.2f}"


def table() -> str:
    """The lines between the two marks."""
    first = compared(CHAT, "928 cold: TTFT")
    decode = compared(CHAT, "928 decode")
    sixteen = compared(STREAMS, "16 streams: sum")
    soak = receipt(SOAK)["soak"]
    tally = soak["tally"]
    ends = ("whole", "hung_up", "cancelled", "interrupted")
    minutes = round(soak["seconds"] / 60)
    rows = [
        ("first token of a prompt of 928 tokens", *first, CHAT),
        ("decode after it", *decode, CHAT),
        ("16 streams together", *sixteen, STREAMS),
        (
            "an agent's tool loop: tokens computed for each new one",
            per_new(REPLAY, "tool_loop"),
            "",
            REPLAY,
        ),
        (
            "the same with kill -9 half way",
            per_new(RESTART, "tool_loop"),
            "",
            RESTART,
        ),
        (
            f"{minutes} minutes with {soak['streams']} clients and a kill -9: answers right, lost",
            f"{tally['same']:,} of {sum(tally[end] for end in ends):,}, {tally['lost']}",
            "",
            SOAK,
        ),
    ]
    lines = ["| the demo model on two CPU cores | mxserve | mlx-lm |", "| --- | --- | --- |"]
    for what, ours, theirs, name in rows:
        lines.append(f"| [{what}](docs/benchmarks/{name}.json) | {ours} | {theirs} |")
    return "\n".join(lines)


def replaced(text: str) -> str:
    """README's text with the table of today's receipts."""
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    text, count = pattern.subn(lambda _: f"{BEGIN}\n{table()}\n{END}", text)
    assert count == 1
    return text


if __name__ == "__main__":
    path = Path(ROOT, "README.md")
    path.write_text(replaced(path.read_text(encoding="utf-8")), encoding="utf-8")
