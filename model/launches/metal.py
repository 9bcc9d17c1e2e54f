"""How many kernels Metal launches for a graph, copies included.

A model of MLX's Metal back end (read at 0.32.2: mlx/backend/metal), not a measurement: which
primitives are views, which take several launches at which sizes, and where an input has to be
copied because of how it lies. What is assumed besides:

- What the function was given, and what it returns, is held by others (the step before may still be
  running), so a slice is never updated in place there; what is used for the last time inside is.
- An M3 Max: sizes at which kernels change follow the back end's "s" devices of generation 15.
- mx.fast.gated_delta_update, newer than the source that was read, is one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from model.launches import layouts, sizes
from model.launches.fusion import ELEMENTWISE, FUSED
from model.launches.graph import Graph, Node
from model.launches.layouts import Layout
from model.launches.memory import FREE, Memory
from model.launches.stand_ins import StandIn


@dataclass(frozen=True, slots=True)
class Launches:
    """Those of one node. kind: what they are, in words; touched: buffers read and written, with
    their sizes in elements."""

    node: Node
    kind: str
    kernels: int
    copies: int
    touched: tuple[tuple[str, int], ...]

    @property
    def count(self) -> int:
        return self.kernels + self.copies


def launches(graph: Graph, memory: Memory | None = None) -> list[Launches]:
    """Of every node that launches something, in order. memory: to be filled with how all arrays
    lie. Raises ValueError for a primitive whose launches are not known here."""
    memory = memory or Memory.of(graph)
    found = []
    for node in graph.nodes:
        memory.copies = 0
        kind, kernels = _node(memory, node)
        memory.was_run(node)
        if kernels + memory.copies:
            found.append(Launches(node, kind, kernels, memory.copies, memory.touched(node)))
    return found


def _node(memory: Memory, node: Node) -> tuple[str, int]:
    """(kind, kernels) of a node; counts its copies and places its outputs."""
    name = node.name
    if name in layouts.VIEWS or name in FREE:
        memory.place_views(node)
        return "view", 0
    if name in layouts.RESHAPES:
        return "copy", memory.place_reshaped(node)
    if name in ELEMENTWISE or name == FUSED:
        memory.place_elementwise(node)
        return "elementwise" if name in ELEMENTWISE else "fused elementwise", 1
    memory.place_new(node)
    if prod(memory.shape(node.outputs[0])) == 0:
        return "nothing", 0
    if node.stand_in is not None:
        return _stand_in(memory, node, node.stand_in)
    known = RULES.get(name)
    if known is None:
        raise ValueError(f"how Metal computes {name} is not known here")
    kind, rule = known
    return kind, rule(memory, node)


def _stand_in(memory: Memory, node: Node, stand_in: StandIn) -> tuple[str, int]:
    name, settings = stand_in.name, stand_in.settings
    if stand_in.launches is not None:
        return name, stand_in.launches
    if name == "contiguous":
        return "copy", memory.place_contiguous(node)
    if name == "rms_norm":
        memory.copy_unless(_rows_lie_together, node.inputs[0])
        return "norm", 1
    if name == "rope":
        _rope(memory, node, partial=bool(settings["partial"]))
        return "rope", 1
    if name == "attention":
        return "attention", _attention(memory, node)
    if settings.get("copies", True):
        memory.copy_unless(_lies_as_new, *node.inputs)
    return name, 1 + (len(node.outputs) if settings.get("fills") else 0)


def _rope(memory: Memory, node: Node, *, partial: bool) -> None:
    """A partial rotation works in a copy of its input; a full one copies what lies oddly."""
    source = memory.lying[node.inputs[0]]
    if partial:
        memory.copies += not (source.row_contiguous and memory.last_use(node.inputs[0]))
    elif not source.row_contiguous and any(n > 1 for n in source.shape[:-3]):
        memory.copies += 1


def _attention(memory: Memory, node: Node) -> int:
    queries, keys, values = memory.inputs(node)[:3]
    if queries.shape[2] > 8:
        raise ValueError("launches are counted for decode steps, not for long queries")
    memory.copies += not sizes.queries_in_place(queries)
    memory.copies += sum(not sizes.keys_in_place(each) for each in (keys, values))
    return 2 if keys.shape[2] >= sizes.ATTENTION_IN_TWO else 1


def _one(memory: Memory, node: Node) -> int:
    return 1


def _two(memory: Memory, node: Node) -> int:
    return 2


def _sort(memory: Memory, node: Node) -> int:
    return sizes.sort_launches(memory.shape(node.inputs[0])[node.arguments[-1]])


def _last_axis(memory: Memory, node: Node) -> int:
    memory.copy_unless(lambda x: x.dense and x.strides[-1] == 1, node.inputs[0])
    return 1


def _scan(memory: Memory, node: Node) -> int:
    axis: int = node.arguments[1]
    memory.copy_unless(lambda x: x.dense and x.strides[axis] != 0, node.inputs[0])
    return 1


def _reduce(memory: Memory, node: Node) -> int:
    (source,) = memory.inputs(node)
    out = prod(memory.shape(node.outputs[0]))
    if prod(source.shape) == out:
        return int(not (source.dense and memory.last_use(node.inputs[0])))
    kernels, copied = sizes.reduction(source, tuple(node.arguments[-1]), out)
    memory.copies += copied
    return kernels


def _concatenate(memory: Memory, node: Node) -> int:
    return sum(prod(memory.shape(name)) > 0 for name in node.inputs)


def _update(memory: Memory, node: Node) -> int:
    """The old array is copied unless this is its last use; then the new part is written, at a place
    that a kernel of its own works out where it is an array."""
    if prod(memory.shape(node.inputs[1])) == 0:
        return 0
    memory.copies += not (memory.lying[node.inputs[0]].dense and memory.last_use(node.inputs[0]))
    return 2 if node.name == "DynamicSliceUpdate" else 1


def _convolution(memory: Memory, node: Node) -> int:
    channels = memory.shape(node.inputs[0])[-1]
    if len(memory.shape(node.inputs[0])) != 3 or memory.shape(node.inputs[1])[0] != channels:
        raise ValueError("only a depthwise convolution over one axis is known here")
    memory.copy_unless(_lies_as_new, *node.inputs)
    return 1


def _quantized(memory: Memory, node: Node) -> int:
    memory.copy_unless(_last_two_lie_together, *node.inputs)
    x, out = memory.lying[node.inputs[0]], memory.shape(node.outputs[0])
    rows = prod(out[:-1]) if x.row_contiguous else out[-2]
    return sizes.quantized_launches(rows, out[-1], x.shape[-1], prod(out))


def _quantized_experts(memory: Memory, node: Node) -> int:
    memory.copy_unless(_last_two_lie_together, *node.inputs[:-2])
    return 1


def _product(memory: Memory, node: Node) -> int:
    left, right = memory.inputs(node)
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    memory.copies += not sizes.product_in_place(left, vector=rows == 1)
    memory.copies += not sizes.product_in_place(right, vector=columns == 1)
    return sizes.product_launches(left, right, rows, columns, inner)


def _product_of_experts(memory: Memory, node: Node) -> int:
    left, right = memory.inputs(node)[:2]
    memory.copies += not sizes.product_in_place(left, vector=left.shape[-2] == 1)
    memory.copies += not sizes.product_in_place(right, vector=right.shape[-1] == 1)
    return 1


def _custom_kernel(memory: Memory, node: Node) -> int:
    """One that was made before the recording began; whether it wants rows is not told."""
    memory.copy_unless(_lies_as_new, *node.inputs)
    return 1


def _lies_as_new(x: Layout) -> bool:
    return x.row_contiguous


def _rows_lie_together(x: Layout) -> bool:
    """What mx.fast.rms_norm reads in place."""
    if not (x.dense and x.strides[-1] == 1):
        return False
    if len(x.shape) == 1:
        return True
    return x.shape[-2] == 1 or x.strides[-2] in (0, x.shape[-1])


def _last_two_lie_together(x: Layout) -> bool:
    """What quantized products read in place: an axis of one element counts by its stride too."""
    *outer, inner = x.strides
    return inner == 1 and (not outer or outer[-1] == x.shape[-1])


# Primitive -> what its launches are, and how many.
RULES: dict[str, tuple[str, Callable[[Memory, Node], int]]] = {
    "QuantizedMatmul": ("quantized product", _quantized),
    "GatherQMM": ("quantized product of experts", _quantized_experts),
    "Matmul": ("product", _product),
    "GatherMM": ("product of experts", _product_of_experts),
    "Convolution": ("convolution", _convolution),
    "Softmax": ("softmax", _last_axis),
    "LogSumExp": ("log-sum-exp", _last_axis),
    "Reduce": ("reduction", _reduce),
    "ArgReduce": ("reduction", _one),
    "Scan": ("scan", _scan),
    "Sort": ("sort", _sort),
    "ArgSort": ("sort", _sort),
    "Partition": ("sort", _sort),
    "ArgPartition": ("sort", _sort),
    "Gather": ("gather", _one),
    "GatherAxis": ("gather", _one),
    "Scatter": ("scatter", _update),
    "ScatterAxis": ("scatter", _update),
    "SliceUpdate": ("slice update", _update),
    "DynamicSliceUpdate": ("slice update", _update),
    "DynamicSlice": ("slice", _two),
    "Concatenate": ("concatenation", _concatenate),
    "RandomBits": ("random bits", _one),
    "Arange": ("fill", _one),
    "Full": ("fill", _one),
    "Pad": ("fill", _two),
    "CustomKernel": ("kernel", _custom_kernel),
}
