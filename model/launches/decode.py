"""The real decode step, counted: network and sampler at a geometry, without weights in memory.

Layers of a kind are all alike, so the step is recorded with one attention layer and one DeltaNet
layer, and with one more of each; a layer costs what it adds. Tests check that this gives what
recording all layers gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from model import steps as steps_module
from model.attention import Attention
from model.config import ModelConfig, QuantSpec
from model.delta_net import DeltaNet
from model.experts import Experts
from model.geometry import Geometry, stored_parts
from model.lane_state import LaneState
from model.launches.counts import Counts, counted
from model.launches.graph import Graph, record
from model.launches.stand_ins import StandIns, blank
from model.network import Network
from model.sampler import SamplerRow, gather
from model.sampling import SamplingParams
from model.state import LayerStates, SequenceState, bucket
from model.steps import Steps
from model.tensors import expected_tensors

DELTA, ATTENTION = "linear_attention", "full_attention"
# Whose calls are told apart: (owner, attribute, part).
WATCHED: Sequence[tuple[Any, str, str]] = (
    (DeltaNet, "__call__", "DeltaNet mixers"),
    (Attention, "step", "attention mixers"),
    (Experts, "__call__", "experts"),
    (Network, "logits", "head"),
    (steps_module, "sample", "sampler"),
)


@dataclass(frozen=True, slots=True)
class BlankWeights:
    """Arrays of the right shapes and types that hold no memory; an ArraySource."""

    arrays: dict[str, mx.array]
    quantized: dict[str, QuantSpec]

    @staticmethod
    def of(config: ModelConfig, specs: Mapping[str, QuantSpec | None]) -> BlankWeights:
        """As the loader would give them to a GPU: matrices packed, the rest bfloat16."""
        arrays: dict[str, mx.array] = {}
        quantized: dict[str, QuantSpec] = {}
        for name, tensor in expected_tensors(config).items():
            module = name.removesuffix(".weight")
            if tensor.kind != "matrix":
                dtype = mx.float32 if tensor.kind == "float32" else mx.bfloat16
                arrays[name] = blank(tensor.shape, dtype)
                continue
            spec = specs.get(module)
            if spec is not None:
                quantized[module] = spec
            for suffix, (shape, dtype) in stored_parts(tensor.shape, spec).items():
                arrays[f"{module}.{suffix}"] = blank(shape, getattr(mx, dtype))
        return BlankWeights(arrays, quantized)


def count_step(
    geometry: Geometry, *, context: int = 4096, sampling: SamplingParams | None = None
) -> Counts:
    """Launches of one decoded token of one sequence after `context` tokens; greedy by default."""
    sampling = sampling or SamplingParams(temperature=0.0)
    kinds = geometry.config.layer_types
    here = [kind for kind in (DELTA, ATTENTION) if kind in kinds]
    total = _recorded(geometry, here, context, sampling)
    base = Counter(total)
    for kind in here:
        more = _recorded(geometry, sorted([*here, kind], reverse=True), context, sampling)
        for key in more.keys() | base.keys():
            total[key] += (kinds.count(kind) - 1) * (more[key] - base[key])
    return Counter({key: count for key, count in total.items() if count})


def count_whole_step(
    geometry: Geometry, *, context: int = 4096, sampling: SamplingParams | None = None
) -> Counts:
    """The same with every layer recorded; slower, and for tests."""
    kinds = geometry.config.layer_types
    return _recorded(geometry, kinds, context, sampling or SamplingParams(temperature=0.0))


def _recorded(
    geometry: Geometry, kinds: Sequence[str], context: int, sampling: SamplingParams
) -> Counts:
    graph = record_step(geometry, kinds, context=context, sampling=sampling)
    return counted(graph, compiled=True)


def record_step(
    geometry: Geometry, kinds: Sequence[str], *, context: int, sampling: SamplingParams
) -> Graph:
    """The graph of a step with layers of these kinds, as a GPU would be given it."""
    config, specs = _with_layers(geometry, kinds)
    network = Network(config, BlankWeights.of(config, specs), mx.bfloat16, on_gpu=True)
    steps = Steps(network, on_gpu=True)
    state = _after(config, context)
    row = SamplerRow.of(sampling, config.vocab_size, ())
    variant, constants, moving = gather([row], config.vocab_size)
    mx.eval(constants, moving)
    generated = mx.array([1], mx.int32)

    def step(token: mx.array) -> Any:
        lane = LaneState([state])
        sampled, moved, _ = steps.decode(variant, token, lane, constants, moving, generated)
        return sampled, lane.layers.moving(), moved

    return record(step, mx.array([0], mx.int32), stand_ins=StandIns(watch=WATCHED))


def _with_layers(
    geometry: Geometry, kinds: Sequence[str]
) -> tuple[ModelConfig, dict[str, QuantSpec | None]]:
    """The configuration with other layers, each stored as the first of its kind is."""
    config = replace(geometry.config, layer_types=tuple(kinds), num_hidden_layers=len(kinds))
    specs = dict(geometry.specs)
    for index, kind in enumerate(kinds):
        like = f"model.layers.{geometry.config.layer_types.index(kind)}."
        for module, spec in geometry.specs.items():
            if module.startswith(like):
                specs[f"model.layers.{index}.{module.removeprefix(like)}"] = spec
    return config, specs


def _after(config: ModelConfig, context: int) -> SequenceState:
    """A state after `context` tokens, all of them in the body."""
    state = SequenceState(config, mx.bfloat16)
    capacity = bucket(context, config.max_position_embeddings)
    for kv in state.layers.kv:
        shape = (1, config.num_key_value_heads, capacity, config.head_dim)
        kv.body_keys, kv.body_values = blank(shape, mx.bfloat16), blank(shape, mx.bfloat16)
        kv.tail_keys = blank(kv.tail_keys.shape, mx.bfloat16)
        kv.tail_values = blank(kv.tail_values.shape, mx.bfloat16)
    layers = state.layers
    state.layers = LayerStates(
        layers.kv,
        [blank(x.shape, x.dtype) for x in layers.conv_tails],
        [blank(x.shape, x.dtype) for x in layers.recurrent],
    )
    state.body_length = context
    return state
