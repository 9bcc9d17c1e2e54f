"""The real decode step, counted: network and sampler at a geometry, without weights in memory.

Layers of a kind are all alike, so the step is recorded with one attention layer and one DeltaNet
layer, and with one more of each; a layer costs what it adds. Tests check that this gives what
recording all layers gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx

from model import steps as steps_module
from model.attention import Attention
from model.config import LayerType
from model.delta_net import DeltaNet
from model.experts import Experts
from model.geometry import Geometry
from model.kernels import Kernels
from model.kernels.decode_attention import metal_decode_attention
from model.kernels.delta_step import metal_delta_step
from model.kernels.expert_down import metal_expert_down
from model.kernels.metal import Launch, UnsupportedError
from model.kernels.qk_norm_rope import metal_qk_norm_rope
from model.kernels.residual_norm import metal_add_rms_norm
from model.kernels.router import metal_router_top_k
from model.launches.blank_step import BlankStep
from model.launches.counts import Counts, counted
from model.launches.fusion import fused
from model.launches.graph import Graph, record
from model.launches.metal import Launches, launches
from model.launches.stand_ins import StandIn, StandIns
from model.network import Network
from model.sampling import SamplingParams

DELTA: LayerType = "linear_attention"
ATTENTION: LayerType = "full_attention"
GREEDY = SamplingParams(temperature=0.0)
CONTEXT = 4096
# Whose calls are told apart: (owner, attribute, part).
WATCHED: Sequence[tuple[Any, str, str]] = (
    (DeltaNet, "step", "DeltaNet mixers"),
    (Attention, "step", "attention mixers"),
    (Experts, "step", "experts"),
    (Network, "logits", "head"),
    (steps_module, "sample", "sampler"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is counted: one token of one sequence after `context` tokens. kernels: as if the
    admission had taken every kernel that takes these shapes, else none of them."""

    kernels: bool = False
    context: int = CONTEXT
    sampling: SamplingParams = GREEDY


def count_step(geometry: Geometry, case: Case = Case()) -> Counts:
    """Launches of one decoded token."""
    kinds = geometry.config.layer_types
    here = [kind for kind in (DELTA, ATTENTION) if kind in kinds]
    total = _counts(geometry, here, case)
    base = Counter(total)
    for kind in here:
        more = _counts(geometry, sorted([*here, kind], reverse=True), case)
        for key in more.keys() | base.keys():
            total[key] += (kinds.count(kind) - 1) * (more[key] - base[key])
    return Counter({key: count for key, count in total.items() if count})


def count_whole_step(geometry: Geometry, case: Case = Case()) -> Counts:
    """The same with every layer recorded; slower, and for tests."""
    return _counts(geometry, geometry.config.layer_types, case)


def whole_step(geometry: Geometry, case: Case = Case()) -> list[Launches]:
    """Every launch of a step, in order, all layers recorded."""
    return launches(fused(record_step(geometry, geometry.config.layer_types, case)))


def _counts(geometry: Geometry, kinds: Sequence[str], case: Case) -> Counts:
    return counted(record_step(geometry, kinds, case), compiled=True)


def record_step(geometry: Geometry, kinds: Sequence[str], case: Case) -> Graph:
    """The graph of a step with layers of these kinds, as a GPU would be given it."""
    stand_ins = StandIns(watch=WATCHED)
    step = BlankStep.of(
        geometry,
        kinds,
        on_gpu=True,
        kernels=every_kernel(stand_ins) if case.kernels else Kernels.plain(),
        context=case.context,
        sampling=case.sampling,
    )
    return record(step, mx.array([0], mx.int32), stand_ins=stand_ins)


def every_kernel(stand_ins: StandIns) -> Kernels:
    """The Metal form of every region, each launch a stand-in; the twin where a kernel does not take
    the shapes."""

    def runner(launch: Launch) -> list[mx.array]:
        inputs = [x if isinstance(x, mx.array) else mx.array(x) for x in launch.inputs]
        return stand_ins.node(StandIn(f"kernel {launch.kernel.name}"), inputs, launch.outputs)

    twins = Kernels.plain()

    def form(kernel: Callable[..., Any], twin: Callable[..., Any]) -> Any:
        return _kernel_or_twin(partial(kernel, runner=runner), twin)

    return Kernels(
        add_rms_norm=form(metal_add_rms_norm, twins.add_rms_norm),
        router_top_k=form(metal_router_top_k, twins.router_top_k),
        delta_step=form(metal_delta_step, twins.delta_step),
        qk_norm_rope=form(metal_qk_norm_rope, twins.qk_norm_rope),
        decode_attention=form(metal_decode_attention, twins.decode_attention),
        expert_down=form(metal_expert_down, twins.expert_down),
    )


def _kernel_or_twin(kernel: Callable[..., Any], twin: Callable[..., Any]) -> Callable[..., Any]:
    def region(*arguments: Any, **named: Any) -> Any:
        try:
            return kernel(*arguments, **named)
        except UnsupportedError:
            return twin(*arguments, **named)

    return region
