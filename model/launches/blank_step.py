"""A decode step of the real network at any geometry, over arrays that hold no memory.

The step can be recorded, or called for the time that calling takes; its results are never computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx

from model.config import ModelConfig, QuantSpec
from model.geometry import Geometry, stored_parts
from model.joining import Join, join_arrays, joins
from model.kernels import Kernels
from model.lane_state import LaneState
from model.launches.stand_ins import blank
from model.network import Network
from model.sampler import Arrays, SamplerRow, Variant, gather
from model.sampling import SamplingParams
from model.state import LayerStates, SequenceState, bucket
from model.steps import Steps
from model.tensors import TensorSpec, expected_tensors


@dataclass(frozen=True, slots=True)
class BlankWeights:
    """Arrays of the right shapes and types, joined as the loader joins them; an ArraySource."""

    arrays: dict[str, mx.array]
    quantized: dict[str, QuantSpec]

    @staticmethod
    def of(
        config: ModelConfig,
        specs: Mapping[str, QuantSpec | None],
        dtype: mx.Dtype,
        *,
        joined: bool = True,
    ) -> BlankWeights:
        """Matrices packed as `specs` says, what is not packed in `dtype`; with `joined` as the
        loader has them, else as in files."""
        found = joins(config, specs.get) if joined else ()
        return BlankWeights.of_table(expected_tensors(config), found, specs, dtype)

    @staticmethod
    def of_table(
        table: Mapping[str, TensorSpec],
        joins: Iterable[Join],
        specs: Mapping[str, QuantSpec | None],
        dtype: mx.Dtype,
    ) -> BlankWeights:
        """The same for the tensors of `table`."""
        arrays: dict[str, mx.array] = {}
        quantized: dict[str, QuantSpec] = {}
        for name, tensor in table.items():
            module = name.removesuffix(".weight")
            if tensor.kind != "matrix":
                kept = mx.float32 if tensor.kind == "float32" else dtype
                arrays[name] = blank(tensor.shape, kept)
                continue
            spec = specs.get(module)
            if spec is not None:
                quantized[module] = spec
            for suffix, (shape, stored) in stored_parts(tensor.shape, spec).items():
                kept = dtype if stored == "bfloat16" else getattr(mx, stored)
                arrays[f"{module}.{suffix}"] = blank(shape, kept)
        for join in joins:
            _join(join, arrays, quantized)
        return BlankWeights(arrays, quantized)


def _join(join: Join, arrays: dict[str, mx.array], quantized: dict[str, QuantSpec]) -> None:
    """Puts the joined matrix in the place of its members."""
    first, *_ = join.members()
    for suffix in ("weight", "scales", "biases"):
        if f"{first}.{suffix}" in arrays:
            groups = [[arrays.pop(f"{path}.{suffix}") for path in group] for group in join.groups]
            whole = join_arrays(groups)  # not evaluated: only its shape is wanted
            arrays[f"{join.name}.{suffix}"] = blank(whole.shape, whole.dtype)
    specs = [quantized.pop(path) for path in join.members() if path in quantized]
    if specs:
        quantized[join.name] = specs[0]


@dataclass(frozen=True, slots=True)
class BlankStep:
    """One sequence after `context` tokens, ready to be fed one more."""

    steps: Steps
    state: SequenceState
    variant: Variant
    constants: Arrays
    moving: Arrays
    generated: mx.array

    @staticmethod
    def of(
        geometry: Geometry,
        kinds: Sequence[str],
        *,
        on_gpu: bool,
        kernels: Kernels,
        context: int,
        sampling: SamplingParams,
        joined: bool = True,
        few: bool = True,
    ) -> BlankStep:
        """A step of a network with layers of `kinds`, as the loader makes it for a GPU, or for a
        CPU with the memory for float32 weights. joined, few: see model.launches.decode.Case."""
        config, specs = _with_layers(geometry, kinds)
        dtype = mx.bfloat16 if on_gpu else mx.float32
        weights = BlankWeights.of(config, specs if on_gpu else {}, dtype, joined=joined)
        network = Network(config, weights, dtype, on_gpu=on_gpu)
        network.kernels = kernels
        row = SamplerRow.of(sampling, config.vocab_size, ())
        variant, constants, moving = gather([row], config.vocab_size)
        if not few:
            variant = variant._replace(few=0)
        generated = mx.array([1], mx.int32)
        mx.eval(constants, moving, generated)
        state = _after(config, dtype, context)
        return BlankStep(
            Steps(network, on_gpu=on_gpu), state, variant, constants, moving, generated
        )

    def __call__(self, token: mx.array) -> tuple[mx.array, list[list[mx.array]], Arrays]:
        """token int32 [1] -> the sampled one, the moved state and the moved sampler, not
        computed. Every call starts from the same state."""
        lane = LaneState([self.state])
        sampled, moved, _ = self.steps.decode(
            self.variant, token, lane, self.constants, self.moving, self.generated
        )
        return sampled, lane.layers.moving(), moved


def _with_layers(
    geometry: Geometry, kinds: Sequence[str]
) -> tuple[ModelConfig, dict[str, QuantSpec | None]]:
    """The configuration with other layers, each stored as the first of its kind is."""
    config = replace(geometry.config, layer_types=tuple(kinds), num_hidden_layers=len(kinds))
    specs = dict(geometry.specs)
    for index, kind in enumerate(kinds):
        first = [str(known) for known in geometry.config.layer_types].index(kind)
        like = f"model.layers.{first}."
        for module, spec in geometry.specs.items():
            if module.startswith(like):
                specs[f"model.layers.{index}.{module.removeprefix(like)}"] = spec
    return config, specs


def _after(config: ModelConfig, dtype: mx.Dtype, context: int) -> SequenceState:
    """A state after `context` tokens, all of them in the body."""
    state = SequenceState(config, dtype)
    capacity = bucket(context, config.max_position_embeddings)
    for kv in state.layers.kv:
        shape = (1, config.num_key_value_heads, capacity, config.head_dim)
        kv.body_keys, kv.body_values = blank(shape, dtype), blank(shape, dtype)
        kv.tail_keys = blank(kv.tail_keys.shape, dtype)
        kv.tail_values = blank(kv.tail_values.shape, dtype)
    layers = state.layers
    state.layers = LayerStates(
        layers.kv,
        [blank(x.shape, x.dtype) for x in layers.conv_tails],
        [blank(x.shape, x.dtype) for x in layers.recurrent],
    )
    state.body_length = context
    return state
