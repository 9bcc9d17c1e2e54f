"""What mx.compile makes of a graph: chains of elementwise primitives become one kernel each.

Follows MLX's compile.cpp: from each result backwards, elementwise primitives and broadcasts join
while all that read them are inside, at most 11 deep and with fewer than 24 inputs; a broadcast that
others read too is doubled. Only what the graph returns may leave the middle of a kernel, and only
in its shape. tests/model/launches compare this with what mx.compile itself makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from model.launches.graph import Graph, Kind, Node

MAX_DEPTH = 11
MAX_ARRAYS = 24
# fmt: off
ELEMENTWISE = frozenset((
    "Abs", "ArcCos", "ArcCosh", "ArcSin", "ArcSinh", "ArcTan", "ArcTanh", "AsType", "Ceil",
    "Cos", "Conjugate", "Cosh", "Remainder", "Erf", "ErfInv", "Exp", "Floor", "Log",
    "Log1p", "LogicalNot", "Negative", "Round", "Sigmoid", "Sign", "Sin", "Sinh", "Square",
    "Sqrt", "Tan", "Tanh", "Expm1", "Real", "Imag", "BitwiseInvert", "Add", "Divide",
    "Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr",
    "LogAddExp", "Maximum", "Minimum", "Multiply", "NotEqual", "Power", "Subtract",
    "BitwiseBinary", "ArcTan2", "Select",
))
# fmt: on
FUSED = "Fused"


def fused(graph: Graph) -> Graph:
    """The graph with every fused chain as one node named FUSED, whose arguments are the names of
    its primitives, broadcasts among them."""
    fusion = _Fusion(graph, kinds=dict(graph.kinds))
    nodes = tuple(fusion.run())
    return replace(graph, nodes=nodes, kinds=fusion.kinds)


@dataclass(slots=True)
class _Fusion:
    """Nodes by the array they make; an elementwise one makes one. `readers`: for each array, the
    first output of each node that reads it."""

    graph: Graph
    kinds: dict[str, Kind]
    made: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    doubles: dict[str, str] = field(default_factory=dict)
    # Of the chain that is being collected:
    inside: set[str] = field(default_factory=set)
    at_edge: set[str] = field(default_factory=set)

    def run(self) -> list[Node]:
        for node in self.graph.nodes:
            self.made |= dict.fromkeys(node.outputs, node)
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node.outputs[0])
        kept: list[Node] = []
        done: set[str] = set()
        for node in reversed(self.graph.nodes):
            node = self.made[node.outputs[0]]
            result = node.outputs[0]
            if result in done:
                continue
            self.inside, self.at_edge = set(), set()
            if node.name in ELEMENTWISE:
                self._collect(result, 0, self.kinds[result].shape)
            if len(self.inside) <= 1:
                kept.append(node)
                continue
            kept.append(self._joined(result, done))
        doubles = [self.made[name] for name in self.doubles if name not in done]
        return _in_order([*doubles, *reversed(kept)])

    def _collect(self, name: str, depth: int, shape: tuple[int, ...]) -> None:
        if name in self.inside:
            return
        node = self.made.get(name)
        fusable = node is not None and (node.name in ELEMENTWISE or node.name == "Broadcast")
        returned = name in self.graph.outputs
        if (
            node is None
            or not fusable
            or depth >= MAX_DEPTH
            or (returned and self.kinds[name].shape != shape)
        ):
            self.at_edge.add(name)
            return
        if depth and not all(reader in self.inside for reader in self.readers[name]):
            if node.name == "Broadcast" and len(self.at_edge) < MAX_ARRAYS:
                self._collect(self._doubled(node), depth, shape)
            else:
                self.at_edge.add(name)
            return
        if returned:
            self.at_edge.add(name)
        else:
            self.at_edge.discard(name)
        if len(self.at_edge) >= MAX_ARRAYS:
            return
        self.inside.add(name)
        for read in self.made[name].inputs:
            self._collect(read, depth + 1, shape)

    def _doubled(self, node: Node) -> str:
        """A copy of a broadcast for the readers inside; the others keep the one there was."""
        name = node.outputs[0]
        copy = f"{name}'{len(self.doubles)}"
        self.doubles[copy] = name
        self.made[copy] = replace(node, outputs=(copy,))
        self.kinds[copy] = self.kinds[name]
        for read in node.inputs:
            self.readers[read].append(copy)
        moved = [reader for reader in self.readers[name] if reader in self.inside]
        self.readers[copy] = moved
        self.readers[name] = [r for r in self.readers[name] if r not in self.inside]
        for reader in set(moved):
            old = self.made[reader]
            inputs = tuple(copy if read == name else read for read in old.inputs)
            self.made[reader] = replace(old, inputs=inputs)
        return copy

    def _joined(self, result: str, done: set[str]) -> Node:
        """The chain that ends in `result` as one node."""
        inputs: list[str] = []
        chain: list[str] = []

        def walk(name: str) -> None:
            if name not in self.inside:
                if name not in inputs:
                    inputs.append(name)
            elif name not in chain_set:
                chain_set.add(name)
                for read in self.made[name].inputs:
                    walk(read)
                chain.append(name)

        chain_set: set[str] = set()
        walk(result)
        outputs = [name for name in chain if name in self.graph.outputs and name != result]
        outputs.append(result)
        names = tuple(self.made[name].name for name in chain)
        node = Node(FUSED, tuple(inputs), tuple(outputs), names)
        for name in outputs:
            self.readers[name] = [r for r in self.readers.get(name, []) if r not in self.inside]
            self.made[name] = node
        for name in inputs:
            outside = [r for r in self.readers[name] if r not in self.inside]
            self.readers[name] = [*outside, outputs[0]]
        done.update(chain)
        return node


def _in_order(nodes: list[Node]) -> list[Node]:
    """Each node after those it reads from, otherwise as they come."""
    made = {name: node for node in nodes for name in node.outputs}
    placed: set[int] = set()
    ordered: list[Node] = []
    for start in nodes:
        stack = [(start, iter(start.inputs))]
        while stack:
            node, rest = stack[-1]
            if id(node) in placed:
                stack.pop()
                continue
            before = next((made[n] for n in rest if n in made and id(made[n]) not in placed), None)
            if before is not None:
                stack.append((before, iter(before.inputs)))
            else:
                placed.add(id(node))
                ordered.append(node)
                stack.pop()
    return ordered
