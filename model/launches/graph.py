"""What a function would compute, as a list of primitives: recorded through mx.export_function.

Nothing is evaluated, so a function over arrays that hold no memory of their own (broadcast zeros)
can be recorded at any size. Knows arrays by name, shape and type, and nothing of any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from model.launches.stand_ins import StandIn, StandIns
from model.launches.trees import arrays_in

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """Shape of an array and its type."""

    shape: Shape
    dtype: mx.Dtype


@dataclass(frozen=True, slots=True)
class Node:
    """One primitive: what it is called in mlx, the names of what it reads and makes, and its
    settings in mlx's order. stand_in: what a stand-in stood for, None for an ordinary primitive."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: tuple[Any, ...] = ()
    stand_in: StandIn | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """nodes: each after those it reads from. kinds: of every array. outputs: what the function
    returned. scopes: for each call that was watched, its name and the arrays it got and gave."""

    nodes: tuple[Node, ...]
    kinds: dict[str, Kind]
    outputs: tuple[str, ...]
    scopes: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = ()


def record(function: Callable[..., Any], *inputs: mx.array, stand_ins: StandIns) -> Graph:
    """The graph of `function(*inputs)`, whose result may be arrays in lists, tuples and dicts.

    `stand_ins` are in force meanwhile: see there. The graph is simplified as mx.compile does it
    (equal work merged, dead work dropped), and no more.
    """
    calls: list[tuple[str, int, int]] = []
    returned = 0

    def flat(*arguments: mx.array) -> list[mx.array]:
        nonlocal returned
        before = len(stand_ins.watched)
        with stand_ins.installed():
            results = arrays_in(function(*arguments))
        returned = len(results)
        for name, given, made in stand_ins.watched[before:]:
            calls.append((name, len(given), len(made)))
            results += given + made
        del stand_ins.watched[before:]
        return results

    told: list[dict[str, Any]] = []
    mx.export_function(told.append, flat, *(inputs or (mx.array(0),)))
    return _graph(told, stand_ins, returned, calls)


def _graph(
    told: Sequence[dict[str, Any]],
    stand_ins: StandIns,
    returned: int,
    calls: Sequence[tuple[str, int, int]],
) -> Graph:
    messages = {message["type"]: message for message in told if message["type"] != "primitive"}
    constants: dict[str, mx.array] = dict(messages["constants"]["constants"])
    kinds = {name: Kind(array.shape, array.dtype) for name, array in constants.items()}
    for name, shape, dtype in messages["inputs"]["inputs"]:
        kinds[name] = Kind(tuple(shape), dtype)
    nodes: list[Node] = []
    for message in told:
        if message["type"] != "primitive":
            continue
        for name, shape, dtype in (*message["inputs"], *message["outputs"]):
            kinds[name] = Kind(tuple(shape), dtype)
        inputs = tuple(name for name, _, _ in message["inputs"])
        outputs = tuple(name for name, _, _ in message["outputs"])
        arguments = tuple(message["arguments"])
        node = Node(message["name"], inputs, outputs, arguments)
        nodes.append(_revealed(node, constants, stand_ins))
    outputs = [name for name, _, _ in messages["outputs"]["outputs"]]
    scopes, rest = [], outputs[returned:]
    for name, given, made in calls:
        scopes.append((name, tuple(rest[:given]), tuple(rest[given : given + made])))
        rest = rest[given + made :]
    needed = _needed(nodes, outputs[:returned])
    return Graph(tuple(needed), kinds, tuple(outputs[:returned]), tuple(scopes))


def _revealed(node: Node, constants: dict[str, mx.array], stand_ins: StandIns) -> Node:
    """A stand-in's node, as what it stands for: its blank results and its number are left out."""
    if node.name != "Depends":
        return node
    blanks = len(node.outputs)
    number = constants.get(node.inputs[blanks])
    if number is None or number.dtype != mx.int64:
        return node
    stand_in = stand_ins.number(number)
    return Node(stand_in.name, node.inputs[blanks + 1 :], node.outputs, (), stand_in)


def _needed(nodes: list[Node], outputs: Sequence[str]) -> list[Node]:
    """Without the nodes that only a watched call's arrays needed."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]
