"""Comparisons in words. Knows figures and where they go in a table, no arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]
_HEAD = (
    "checkpoint", "GB", "bits/weight", "KL mean", "p50", "p99", "max", "top-1", "perplexity",
    "router",
)  # fmt: skip


def table(figures: Figures) -> str:
    """One line for each checkpoint; figures as Comparison.to_json() has them, by name."""
    rows = [
        [
            name,
            f"{found['bytes'] / 1e9:.3f}",
            f"{found['bits_per_weight']:.2f}",
            *(f"{found[f'kl_{which}']:.3g}" for which in ("mean", "p50", "p99", "max")),
            f"{found['top1']:.2%}",
            f"{found['perplexity']:.4f}",
            f"{found['router_agreement']:.2%}",
        ]
        for name, found in figures.items()
    ]
    return aligned([list(_HEAD), *rows])


def markdown(figures: Figures) -> str:
    """The same as a table for a page, without what small sizes and texts make meaningless."""
    head = ["", "bits/weight", "KL mean", "p50", "p99", "max", "top-1", "router", "AWQ: norms"]
    rows = [head, ["---"] * len(head)]
    for name, found in figures.items():
        kl = [f"{found[f'kl_{which}']:.2e}" for which in ("mean", "p50", "p99", "max")]
        shares = [f"{found[which]:.2%}" for which in ("top1", "router_agreement")]
        bits = f"{found['bits_per_weight']:.2f}"
        rows.append([name, bits, *kl, *shares, found.get("norms_scaled", "")])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page(reference: str, experts: int, figures: Figures) -> str:
    """Everything: the table, routers by layer, the worst matrices."""
    perplexity = next(iter(figures.values()))["reference_perplexity"]
    parts = [f"reference: {reference}, perplexity {perplexity:.4f}", "", table(figures)]
    parts += ["", f"top-{experts} of the routers kept, by layer:"]
    layers = [[name, *map(_percent, f["router_agreement_by_layer"])] for name, f in figures.items()]
    parts.append(aligned(layers))
    for name, found in figures.items():
        parts += ["", f"{name}: matrices with the largest errors (outputs, weights)"]
        worst = [
            [_percent(error["output_error"]), _percent(error["weight_error"]), error["stored"],
             error["name"]]
            for error in found["worst_tensors"]
        ]  # fmt: skip
        parts.append(aligned(worst, left=(2, 3)))
    return "\n".join(parts)


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns of text, the given ones to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
