"""Which matrices of a layer are joined into one at load: those that multiply the same input, so
that a step makes one product of several.

Queries, keys and values; a DeltaNet layer's four projections as two; gate and up of all experts.
The shared expert becomes expert number E of the routed ones, and its gate one more row of the
router. Only what is stored the same way is joined; the network multiplies by the rest one by one.
Files keep the tensors apart. Knows names, storage and shapes, and how arrays are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from model.config import ModelConfig, QuantSpec

# How the matrix at a module path is stored; None is not quantized.
SpecOf = Callable[[str], QuantSpec | None]


@dataclass(frozen=True, slots=True)
class Join:
    """The matrix at module path `name`: the matrices of each group one below the other, and the
    groups one expert after another; of several groups, a matrix without experts is one expert.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]

    def members(self) -> Iterator[str]:
        """Module paths of what is joined."""
        for group in self.groups:
            yield from group


def joins(config: ModelConfig, spec_of: SpecOf) -> Iterator[Join]:
    """What is joined in the layers of a network whose matrices are stored as `spec_of` says."""
    for index, kind in enumerate(config.layer_types):
        yield from layer_joins(config, f"model.layers.{index}", kind, spec_of)


def layer_joins(config: ModelConfig, layer: str, kind: str, spec_of: SpecOf) -> Iterator[Join]:
    """The same of one layer, whose tensors' names begin with `layer`."""
    as_one_more = config.shared_expert_intermediate_size == config.moe_intermediate_size
    possible = list(_mixer(layer, kind))
    possible += _experts(f"{layer}.mlp", spec_of, as_one_more=as_one_more)
    yield from (join for join in possible if _stored_alike(join, spec_of))


def join_arrays(groups: list[list[mx.array]]) -> mx.array:
    """The arrays of a join's groups, of one suffix ([..., out, in or groups]), as one array."""
    stacked = [_concatenated(group, axis=-2) for group in groups]
    if len(stacked) > 1:
        stacked = [array if array.ndim == 3 else array[None] for array in stacked]
    return _concatenated(stacked, axis=0)


def _mixer(layer: str, kind: str) -> Iterator[Join]:
    if kind == "full_attention":
        path = f"{layer}.self_attn"
        yield Join(f"{path}.qkv_proj", (tuple(f"{path}.{part}_proj" for part in "qkv"),))
        return
    path = f"{layer}.linear_attn.in_proj"
    yield Join(f"{path}_qkvz", ((f"{path}_qkv", f"{path}_z"),))
    yield Join(f"{path}_ab", ((f"{path}_a", f"{path}_b"),))


def _experts(path: str, spec_of: SpecOf, *, as_one_more: bool) -> list[Join]:
    routed = tuple(f"{path}.switch_mlp.{part}_proj" for part in ("gate", "up"))
    shared = tuple(f"{path}.shared_expert.{part}_proj" for part in ("gate", "up"))
    downs = f"{path}.switch_mlp.down_proj", f"{path}.shared_expert.down_proj"
    gates = Join(f"{path}.gates", ((f"{path}.gate", f"{path}.shared_expert_gate"),))
    whole = [
        Join(f"{path}.experts.gate_up_proj", (routed, shared)),
        Join(f"{path}.experts.down_proj", tuple((down,) for down in downs)),
    ]
    if as_one_more and all(_stored_alike(join, spec_of) for join in whole):
        return [gates, *whole]
    return [
        gates,
        Join(f"{path}.switch_mlp.gate_up_proj", (routed,)),
        Join(f"{path}.shared_expert.gate_up_proj", (shared,)),
    ]


def _stored_alike(join: Join, spec_of: SpecOf) -> bool:
    return len({spec_of(member) for member in join.members()}) == 1


def _concatenated(arrays: list[mx.array], *, axis: int) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.concatenate(arrays, axis=axis)
