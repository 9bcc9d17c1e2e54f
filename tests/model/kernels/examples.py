"""Random arguments of the fused regions, at the real model's sizes, the demo's and odd ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from model.config import QuantSpec
from model.quantized import (
    AnyExpertLinear,
    AnyLinear,
    ExpertLinear,
    Linear,
    QuantizedExpertLinear,
    QuantizedLinear,
)

MXFP8 = QuantSpec(8, 32, "mxfp8")
AFFINE8 = QuantSpec(8, 64, "affine")
EPS = 1e-6

Arguments = dict[str, Any]


class Draw:
    """Random arrays of one dtype from one seed."""

    def __init__(self, dtype: mx.Dtype, seed: int = 0) -> None:
        self.dtype = dtype
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> mx.array:
        return self.float32(*shape, scale=scale).astype(self.dtype)

    def float32(self, *shape: int, scale: float = 1.0) -> mx.array:
        return mx.array((self._rng.normal(size=shape) * scale).astype(np.float32))

    def gain(self, size: int) -> mx.array:
        """A norm's weight: around one."""
        return (1 + self.float32(size, scale=0.2)).astype(self.dtype)

    def integers(self, low: int, high: int, *shape: int) -> mx.array:
        """Inclusive of both ends."""
        return mx.array(self._rng.integers(low, high, shape, endpoint=True).astype(np.int32))

    def choices(self, rows: int, of: int, count: int) -> mx.array:
        """`count` distinct numbers below `of` for each row."""
        picked = [self._rng.choice(of, count, replace=False) for _ in range(rows)]
        return mx.array(np.array(picked).astype(np.uint32))


def residual_norm(draw: Draw, rows: int, hidden: int, tokens: int = 1) -> Arguments:
    return {
        "x": draw.normal(rows, tokens, hidden),
        "delta": draw.normal(rows, tokens, hidden),
        "weight": draw.gain(hidden),
        "eps": EPS,
    }


@dataclass(frozen=True)
class DeltaSizes:
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    width: int = 4
    hidden: int = 70


def delta_step(
    draw: Draw, rows: int, sizes: DeltaSizes, *, spec: QuantSpec | None = None
) -> Arguments:
    Hk, Hv, Dk, Dv = sizes.key_heads, sizes.value_heads, sizes.key_dim, sizes.value_dim
    channels = 2 * Hk * Dk + Hv * Dv
    return {
        "qkvz": draw.normal(rows, 1, channels + Hv * Dv),
        "x": draw.normal(rows, 1, sizes.hidden),
        "in_proj_ab": projection(draw, 2 * Hv, sizes.hidden, spec),
        "conv_tail": draw.normal(rows, sizes.width - 1, channels),
        "taps": draw.normal(sizes.width, channels, scale=0.5),
        "decay_rate": mx.exp(draw.float32(Hv)),
        "dt_bias": draw.float32(Hv),
        "norm": draw.gain(Dv),
        "eps": EPS,
        "recurrent": draw.float32(rows, Hv, Dv, Dk, scale=0.3),
        "key_heads": Hk,
        "value_heads": Hv,
    }


def delta_step_several(
    draw: Draw,
    rows: int,
    tokens: int,
    places: int,
    sizes: DeltaSizes,
    *,
    spec: QuantSpec | None = None,
) -> Arguments:
    """As above, with the states of some places, of which each row begins with one."""
    args = delta_step(draw, rows, sizes, spec=spec)
    tail, matrix = args.pop("conv_tail").shape[1:], args["recurrent"].shape[1:]
    args["qkvz"] = draw.normal(rows, tokens, args["qkvz"].shape[-1])
    args["x"] = draw.normal(rows, tokens, sizes.hidden)
    args["conv_tails"] = draw.normal(rows, places, *tail)
    args["recurrent"] = draw.float32(rows, places, *matrix, scale=0.3)
    return {**args, "last": draw.integers(0, places - 1, rows)}


@dataclass(frozen=True)
class HeadSizes:
    heads: int
    kv_heads: int
    dim: int


def qk_norm_rope(
    draw: Draw, rows: int, sizes: HeadSizes, rotary_dims: int, *, last: int = 4000, tail: int = 20
) -> Arguments:
    K, D = sizes.kv_heads, sizes.dim
    return {
        "qkv": draw.normal(rows, 1, 2 * (sizes.heads + K) * D),
        "q_norm": draw.gain(D),
        "k_norm": draw.gain(D),
        "eps": EPS,
        "tail_keys": draw.normal(rows, K, tail, D),
        "tail_values": draw.normal(rows, K, tail, D),
        "body_lengths": draw.integers(0, last, rows),
        "tail_length": draw.integers(0, tail - 1, 1)[0],
        "rotary_dims": rotary_dims,
        "base": 1e7,
    }


def decode_attention(
    draw: Draw, rows: int, sizes: HeadSizes, capacity: int, tail: int, tail_length: int
) -> Arguments:
    K, D = sizes.kv_heads, sizes.dim
    lengths = draw.integers(0, capacity, rows)
    filled = mx.full((rows,), tail_length, mx.int32)
    return {
        "q": draw.normal(rows, sizes.heads, 1, D),
        "body_keys": draw.normal(rows, K, capacity, D),
        "body_values": draw.normal(rows, K, capacity, D),
        "tail_keys": draw.normal(rows, K, tail, D),
        "tail_values": draw.normal(rows, K, tail, D),
        "body_lengths": lengths,
        "tail_length": filled[0],
        "scale": D**-0.5,
        "gate": draw.normal(rows, 1, sizes.heads * D),
    }


def qk_norm_rope_several(
    draw: Draw,
    rows: int,
    tokens: int,
    sizes: HeadSizes,
    rotary_dims: int,
    *,
    last: int = 4000,
    tail: int = 20,
) -> Arguments:
    """As above, with a tail length of each row's own."""
    args = qk_norm_rope(draw, rows, sizes, rotary_dims, last=last, tail=tail)
    del args["tail_length"]
    args["qkv"] = draw.normal(rows, tokens, args["qkv"].shape[-1])
    return {**args, "tail_lengths": draw.integers(0, tail - tokens, rows)}


def decode_attention_several(
    draw: Draw, rows: int, tokens: int, sizes: HeadSizes, capacity: int, tail: int
) -> Arguments:
    """As above, with a tail length of each row's own."""
    args = decode_attention(draw, rows, sizes, capacity, tail, 1)
    del args["tail_length"]
    args["q"] = draw.normal(rows, sizes.heads, tokens, sizes.dim)
    args["gate"] = draw.normal(rows, tokens, sizes.heads * sizes.dim)
    return {**args, "tail_lengths": draw.integers(0, tail - tokens, rows)}


@dataclass(frozen=True)
class ExpertSizes:
    experts: int
    chosen: int
    inner: int
    hidden: int


def expert_down(
    draw: Draw, rows: int, sizes: ExpertSizes, spec: QuantSpec | None, *, residual: bool = True
) -> Arguments:
    weights = mx.softmax(draw.float32(rows, sizes.chosen), axis=-1)
    return {
        "gate_up": draw.normal(rows, sizes.chosen, 2 * sizes.inner),
        "down": down_projection(draw, sizes, spec),
        "experts": draw.choices(rows, sizes.experts, sizes.chosen),
        "weights": weights,
        "residual": draw.normal(rows, sizes.hidden) if residual else None,
    }


def vocabulary_top_k(draw: Draw, rows: int, vocabulary: int, count: int) -> Arguments:
    return {
        "logits": draw.normal(rows, vocabulary, scale=4),
        "keys": mx.random.split(mx.random.key(vocabulary), rows),
        "count": count,
    }


def down_projection(draw: Draw, sizes: ExpertSizes, spec: QuantSpec | None) -> AnyExpertLinear:
    weight = draw.normal(sizes.experts, sizes.hidden, sizes.inner, scale=sizes.inner**-0.5)
    if spec is None:
        return ExpertLinear(weight)
    return QuantizedExpertLinear(*_packed(weight, spec), spec)


def projection(draw: Draw, outputs: int, inputs: int, spec: QuantSpec | None) -> AnyLinear:
    weight = draw.normal(outputs, inputs, scale=inputs**-0.5)
    return Linear(weight) if spec is None else QuantizedLinear(*_packed(weight, spec), spec)


def _packed(weight: mx.array, spec: QuantSpec) -> tuple[mx.array, mx.array, mx.array | None]:
    parts = mx.quantize(weight, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)
    return parts[0], parts[1], parts[2] if len(parts) > 2 else None


def in_float32(arguments: Arguments) -> Arguments:
    """The same values with every activation and plain weight in float32."""

    def widened(value: Any) -> Any:
        if isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating):
            return value.astype(mx.float32)
        if isinstance(value, (Linear, ExpertLinear)):
            return type(value)(value.weight.astype(mx.float32))
        if isinstance(value, (QuantizedLinear, QuantizedExpertLinear)):
            dense = mx.dequantize(
                value.weight,
                scales=value.scales,
                biases=value.biases,
                group_size=value.spec.group_size,
                bits=value.spec.bits,
                mode=value.spec.mode,
            ).astype(mx.float32)
            return Linear(dense) if isinstance(value, QuantizedLinear) else ExpertLinear(dense)
        return value

    return {name: widened(value) for name, value in arguments.items()}
