"""Where every array of a graph lies while the graph is walked, and who will still read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

from model.launches import layouts
from model.launches.graph import Graph, Node
from model.launches.layouts import Layout, Shape

SPARE_BYTES = 16_384  # of a buffer that mx.contiguous leaves as it is
FREE = frozenset(("AsStrided", "Copy", "Depends", "NumberOfElements", "StopGradient", "View"))
GIVEN = "given "  # before the name of a buffer that came from outside


@dataclass(slots=True)
class Memory:
    """lying: the layout of every array so far; readers_left: how many nodes still read it; copies:
    made for the node that is being looked at."""

    graph: Graph
    lying: dict[str, Layout] = field(default_factory=dict)
    readers_left: dict[str, int] = field(default_factory=dict)
    copies: int = 0

    @staticmethod
    def of(graph: Graph) -> Memory:
        """Before the first node: only what the function was given lies anywhere."""
        memory = Memory(graph)
        made = {name for node in graph.nodes for name in node.outputs}
        for node in graph.nodes:
            for name in {*node.inputs}:
                memory.readers_left[name] = memory.readers_left.get(name, 0) + 1
        for name, kind in graph.kinds.items():
            if name not in made:
                memory.lying[name] = layouts.new(kind.shape, GIVEN + name)
        return memory

    def shape(self, name: str) -> Shape:
        return self.graph.kinds[name].shape

    def inputs(self, node: Node) -> list[Layout]:
        return [self.lying[name] for name in node.inputs]

    def touched(self, node: Node) -> tuple[tuple[str, int], ...]:
        """The buffers that a node reads or writes, with the elements it spans of each."""
        lying = [self.lying[name] for name in (*node.inputs, *node.outputs)]
        return tuple((each.buffer, each.size) for each in lying)

    def was_run(self, node: Node) -> None:
        for name in {*node.inputs}:
            self.readers_left[name] -= 1

    def copy_unless(self, fits: Callable[[Layout], bool], *names: str) -> None:
        """Counts a copy for each array that does not lie as it has to."""
        self.copies += sum(not fits(self.lying[name]) for name in names)

    def last_use(self, name: str) -> bool:
        """Whether the memory of `name` was made here and nobody else will read it again."""
        buffer = self.lying[name].buffer
        if buffer.startswith(GIVEN):
            return False
        sharing = [other for other, lying in self.lying.items() if lying.buffer == buffer]
        if any(other in self.graph.outputs for other in sharing):
            return False
        return sum(self.readers_left.get(other, 0) for other in sharing) == 1

    def place_new(self, node: Node) -> None:
        """Every output in memory of its own."""
        for output in node.outputs:
            self.lying[output] = layouts.new(self.shape(output), output)

    def place_views(self, node: Node) -> None:
        """The outputs of a node that costs nothing, in the memory of its input."""
        if node.name not in FREE:
            source = self.lying[node.inputs[0]]
            for output in node.outputs:
                shape = self.shape(output)
                self.lying[output] = layouts.view(node.name, source, shape, node.arguments)
            return
        for output, name in zip(node.outputs, node.inputs, strict=False):
            lying, shape = self.lying[name], self.shape(output)
            self.lying[output] = lying if lying.shape == shape else layouts.new(shape, lying.buffer)

    def place_reshaped(self, node: Node) -> int:
        """1 where the elements have to move, else 0."""
        (output,) = node.outputs
        moved = layouts.reshaped(self.lying[node.inputs[0]], self.shape(output))
        self.lying[output] = moved or layouts.new(self.shape(output), output)
        return int(moved is None)

    def place_contiguous(self, node: Node) -> int:
        """The same memory where it lies as a new array and is little less than its buffer."""
        source, dtype = self.lying[node.inputs[0]], self.graph.kinds[node.inputs[0]].dtype
        whole = prod(self.shape(source.buffer.removeprefix(GIVEN))) * dtype.size
        if not source.row_contiguous or whole > prod(source.shape) * dtype.size + SPARE_BYTES:
            return 1
        self.lying[node.outputs[0]] = source
        return 0

    def place_elementwise(self, node: Node) -> None:
        """As the inputs lie where all lie alike, else as new arrays."""
        full = [lying for lying in self.inputs(node) if lying.size > 1]
        for output in node.outputs:
            lying = layouts.new(self.shape(output), output)
            if full and all(x.dense and x.shape == lying.shape for x in full):
                strides = {x.strides for x in full}
                if len(strides) == 1:
                    lying = Layout(lying.shape, strides.pop(), lying.size, True, output)
            self.lying[output] = lying
