"""The real decode step, counted: network and sampler at a geometry, without weights in memory.

Layers of a kind are all alike, so the step is recorded with one attention layer and one DeltaNet
layer, and with one more of each; a layer costs what it adds. Tests check that this gives what
recording all layers gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx

from model import mtp_steps as mtp_steps_module
from model import steps as steps_module
from model.attention import Attention
from model.config import LayerType
from model.delta_net import DeltaNet
from model.draft_head import DraftHead
from model.experts import Experts
from model.geometry import Geometry
from model.kernels import Kernels
from model.kernels.candidates import candidates, or_twin
from model.kernels.metal import Launch
from model.launches.blank_guess import BlankGuess
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
    (DeltaNet, "several", "DeltaNet mixers"),
    (Attention, "step", "attention mixers"),
    (Attention, "several", "attention mixers"),
    (Experts, "step", "experts"),
    (Network, "logits", "head"),
    (Network, "head", "head"),
    (DraftHead, "__call__", "head"),
    (steps_module, "sample", "sampler"),
    (mtp_steps_module, "sample", "sampler"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is counted: one token of one sequence after `context` tokens. kernels: as if the
    admission had taken every kernel that takes these shapes, else none of them; without: but for
    those of these regions. compiled: whether mx.compile joins elementwise chains. joined: whether
    the loader joins matrices. few: whether a small top_k is found without sorting. guesses: of the
    MTP head in the step, which then is one for several tokens; its own launches are told under the
    parts they are like."""

    kernels: bool = False
    context: int = CONTEXT
    sampling: SamplingParams = GREEDY
    without: tuple[str, ...] = ()
    compiled: bool = True
    joined: bool = True
    few: bool = True
    guesses: int = 0


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
    return counted(record_step(geometry, kinds, case), compiled=case.compiled)


def record_step(geometry: Geometry, kinds: Sequence[str], case: Case) -> Graph:
    """The graph of a step with layers of these kinds, as a GPU would be given it."""
    stand_ins = StandIns(watch=WATCHED)
    step = BlankStep.of(
        geometry,
        kinds,
        on_gpu=True,
        kernels=every_kernel(stand_ins, case.without) if case.kernels else Kernels.plain(),
        context=case.context,
        sampling=case.sampling,
        joined=case.joined,
        few=case.few,
    )
    if case.guesses:
        nexts = mx.zeros((1, case.guesses + 1), mx.int32)
        return record(BlankGuess.of(step, case.guesses), nexts, stand_ins=stand_ins)
    return record(step, mx.array([0], mx.int32), stand_ins=stand_ins)


def every_kernel(stand_ins: StandIns, without: Sequence[str] = ()) -> Kernels:
    """The Metal form of every region in its first size, each launch a stand-in; the twin where a
    kernel does not take the shapes, and for regions named in `without`."""

    def runner(launch: Launch) -> list[mx.array]:
        inputs = [x if isinstance(x, mx.array) else mx.array(x) for x in launch.inputs]
        return stand_ins.node(StandIn(f"kernel {launch.kernel.name}"), inputs, launch.outputs)

    twins = Kernels.plain()
    forms = {
        name: or_twin(some[0].kernel, getattr(twins, name))
        for name, some in candidates(runner).items()
        if name not in without
    }
    return replace(twins, **forms)
