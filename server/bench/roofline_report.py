"""The page of `mxserve bench roofline`: what it found, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.bench.report import aligned

CACHE_BYTES = 64 << 20  # of a large machine's last level
EVERY, SAMPLED = "with_every_kernel", "with_every_kernel_sampled"
TWINS = "with_twins_only"


def page(found: Mapping[str, Any]) -> str:
    """Launches, bytes, host time, limits."""
    sections = [
        "Kernel launches per token, as MLX's Metal back end would make them (counted)",
        _launches(found),
        "Bytes read per token",
        _bytes(found["bytes"]),
        "A step that feeds guesses of the MTP head too, greedy, every kernel",
        _guesses(found),
        "Host time to call a step",
        _host(found),
        "Limit by memory bandwidth",
        _limits(found),
    ]
    return "\n\n".join(sections)


def _launches(found: Mapping[str, Any]) -> str:
    columns = {
        "every kernel": found["launches"][EVERY]["parts"],
        "sampled": found["launches"][SAMPLED]["parts"],
        "twins only": found["launches"][TWINS]["parts"],
    }
    if "mlx-lm" in found:
        columns[f"mlx-lm {found['mlx-lm']['version']}"] = found["mlx-lm"]["parts"]
    parts = dict.fromkeys(part for kinds in columns.values() for part in kinds)
    rows = [["", *columns]]
    for part in parts:
        rows.append([part, *(f"{sum(c.get(part, {}).values()):,}" for c in columns.values())])
    totals = (sum(sum(k.values()) for k in c.values()) for c in columns.values())
    rows.append(["together", *(f"{total:,}" for total in totals)])
    forms = [found["launches"][form]["command_buffers"] for form in (EVERY, SAMPLED, TWINS)]
    for limits in forms[0]:
        cells = [f"{form[limits]:,}" for form in forms]
        if "mlx-lm" in found:  # it leaves mlx's limits as they are
            its_own = limits == next(iter(forms[0]))
            cells.append(f"{found['mlx-lm']['command_buffers']:,}" if its_own else "-")
        rows.append([f"command buffers, {limits}", *cells])
    return aligned(rows)


def _bytes(sizes: Mapping[str, Any]) -> str:
    rows = [["", "MB"]]
    rows += [[part, f"{size / 1e6:,.1f}"] for part, size in sizes["weights"].items()]
    state = "recurrent state, read and written"
    rows.append([state, f"{sizes[state] / 1e6:,.1f}"])
    for context, size in sizes["total"].items():
        rows.append([f"together after {int(context):,} tokens", f"{size / 1e6:,.1f}"])
    return aligned(rows)


def _guesses(found: Mapping[str, Any]) -> str:
    """Launches and bytes, and how many tokens it has to give for the bytes of as many plain
    steps."""
    plain, alone = found["bytes"]["total"]["0"], found["launches"][EVERY]["total"]
    rows = [["guesses", "launches", "MB", "tokens to pay for the bytes"]]
    rows.append(["0", f"{alone:,}", f"{plain / 1e6:,.0f}", ""])
    for count, step in found["guesses"].items():
        size = plain + sum(step["more_bytes"].values())
        rows.append([count, f"{step['launches']:,}", f"{size / 1e6:,.0f}", f"{size / plain:.2f}"])
    return aligned(rows)


def _host(found: Mapping[str, Any]) -> str:
    host = found["host"]
    lines = [("as it runs here", host["as_it_runs_here"])]
    lines.append(("traced for Metal, every kernel", host["traced_for_metal"]))
    if "mlx-lm" in found:
        lines.append((f"mlx-lm {found['mlx-lm']['version']}, here", found["mlx-lm"]["host"]))
    rows = [[host["network"], "us", "least..most"]]
    for name, times in lines:
        between = f"{times['least_us']:,.0f}..{times['most_us']:,.0f}"
        rows.append([name, f"{times['median_us']:,.0f}", between])
    return aligned(rows)


def _limits(found: Mapping[str, Any]) -> str:
    bandwidth = found["bandwidth"]
    how = "measured here" if bandwidth["measured"] else "given"
    rows = [[f"{bandwidth['bytes_per_second'] / 1e9:,.1f} GB/s, {how}", "tok/s"]]
    for context, rate in found["limit_tok_s"].items():
        rows.append([f"after {int(context):,} tokens, as stored", f"{rate:,.1f}"])
    if "reached" in found:
        reached = found["reached"]
        here = f"after {reached['after_tokens']} tokens, weights {reached['weights_here']}"
        rows.append([here, f"{reached['limit_tok_s_here']:,.1f}"])
        rows.append(["reached", f"{reached['tok_s']:,.1f}"])
        rows.append(["of that limit, percent", f"{100 * reached['share_of_limit']:.0f}"])
        if reached["bytes_per_token_here"] < CACHE_BYTES:
            note = "What a token reads here fits into caches: memory is not what limits it."
            return f"{aligned(rows)}\n{note}"
    return aligned(rows)
