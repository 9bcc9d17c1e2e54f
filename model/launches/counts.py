"""Launches of a recorded function, added up by the part that they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from model.launches.fusion import fused
from model.launches.graph import Graph, record
from model.launches.metal import Launches, launches
from model.launches.stand_ins import StandIns, blank
from model.launches.trees import arrays_in, with_arrays

ELSEWHERE = "norms, residuals, embedding"  # what lies in no watched call
Counts = Counter[tuple[str, str]]  # (part, kind of launch) -> launches


def counted(graph: Graph, *, compiled: bool) -> Counts:
    """The launches of a recorded function by part; `compiled`: it will run inside mx.compile."""
    parts = parts_of(graph)
    counts: Counts = Counter()
    for launch in launches(fused(graph) if compiled else graph):
        part = parts.get(launch.node.outputs[-1], ELSEWHERE)
        counts[part, launch.kind] += launch.kernels
        counts[part, "copy"] += launch.copies
    return Counter({key: count for key, count in counts.items() if count})


def parts_of(graph: Graph) -> dict[str, str]:
    """Array -> part, for what the watched calls made: whatever lies between the arrays a call was
    given and those it gave. An inner call comes before the one around it."""
    made = {name: node for node in graph.nodes for name in node.outputs}
    parts: dict[str, str] = {}
    for part, given, results in graph.scopes:
        edge, seen = set(given), set(results)
        todo = [name for name in results if name not in edge]
        while todo:
            name = todo.pop()
            node = made.get(name)
            if node is None:
                continue
            for output in node.outputs:
                parts.setdefault(output, part)
            fresh = [read for read in node.inputs if read not in seen | edge]
            seen.update(fresh)
            todo += fresh
    return parts


def command_buffers(found: Sequence[Launches], *, operations: int, megabytes: int) -> int:
    """Metal command buffers that these launches are committed in. mlx ends one after the primitive
    that brings it past `operations` launches, or past `megabytes` times 2^20 elements (of any size)
    of buffers that it had not touched before."""
    buffers, launched, elements = 0, 0, 0
    seen: set[str] = set()
    for each in found:
        launched += each.count
        for buffer, size in each.touched:
            if buffer not in seen:
                seen.add(buffer)
                elements += size
        if launched > operations or elements >> 20 > megabytes:
            buffers, launched, elements = buffers + 1, 0, 0
            seen.clear()
    return buffers + bool(launched)


def count_compiled(
    function: Callable[..., Any], arguments: tuple[Any, ...], stand_ins: StandIns
) -> int:
    """Launches of a function that mx.compile made by itself, called with these arguments: what
    StandIns takes as its own `count_compiled`."""
    blanks = [blank(x.shape, x.dtype) for x in arrays_in(arguments)]

    def flat(*given: mx.array) -> Any:
        return function(*with_arrays(arguments, list(given)))

    graph = fused(record(flat, *blanks, stand_ins=stand_ins))
    return sum(each.count for each in launches(graph))
