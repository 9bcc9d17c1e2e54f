"""The fused regions of a decode step: for each a function of plain operations, its twin, and a
Metal kernel that does the same in one launch.

The network calls the regions through one `Kernels` and does not know which form runs. `plain()`
are the twins, which run everywhere; `model.kernels.admission` replaces by its kernel each region
whose kernel proved itself on this device. Shapes and dtypes are in the twins' docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from model.kernels import (
    decode_attention,
    decode_attention_several,
    delta_step,
    delta_step_several,
    expert_down,
    qk_norm_rope,
    qk_norm_rope_several,
    residual_norm,
    router,
    vocabulary_top_k,
)
from model.quantized import AnyExpertLinear, AnyLinear, SeparateLinears


class AddRmsNorm(Protocol):
    """See residual_norm.add_rms_norm."""

    def __call__(
        self, x: mx.array, delta: mx.array, weight: mx.array, eps: float
    ) -> tuple[mx.array, mx.array]: ...


class RouterTopK(Protocol):
    """See router.router_top_k."""

    def __call__(
        self, logits: mx.array, k: int, *, shared: bool = False
    ) -> tuple[mx.array, mx.array]: ...


class DeltaStep(Protocol):
    """See delta_step.delta_step."""

    def __call__(
        self,
        qkvz: mx.array,
        x: mx.array,
        in_proj_ab: AnyLinear | SeparateLinears,
        conv_tail: mx.array,
        taps: mx.array,
        decay_rate: mx.array,
        dt_bias: mx.array,
        norm: mx.array,
        eps: float,
        recurrent: mx.array,
        key_heads: int,
        value_heads: int,
    ) -> tuple[mx.array, mx.array, mx.array]: ...


class QkNormRope(Protocol):
    """See qk_norm_rope.qk_norm_rope."""

    def __call__(
        self,
        qkv: mx.array,
        q_norm: mx.array,
        k_norm: mx.array,
        eps: float,
        tail_keys: mx.array,
        tail_values: mx.array,
        body_lengths: mx.array,
        tail_length: mx.array,
        rotary_dims: int,
        base: float,
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]: ...


class DecodeAttention(Protocol):
    """See decode_attention.decode_attention."""

    def __call__(
        self,
        q: mx.array,
        body_keys: mx.array,
        body_values: mx.array,
        tail_keys: mx.array,
        tail_values: mx.array,
        body_lengths: mx.array,
        tail_length: mx.array,
        scale: float,
        gate: mx.array,
    ) -> mx.array: ...


class ExpertDown(Protocol):
    """See expert_down.expert_down."""

    def __call__(
        self,
        gate_up: mx.array,
        down: AnyExpertLinear,
        experts: mx.array,
        weights: mx.array,
        residual: mx.array | None = None,
    ) -> mx.array: ...


class VocabularyTopK(Protocol):
    """See vocabulary_top_k.vocabulary_top_k."""

    def __call__(
        self, logits: mx.array, keys: mx.array, count: int
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]: ...


class QkNormRopeSeveral(Protocol):
    """See qk_norm_rope_several.qk_norm_rope_several."""

    def __call__(
        self,
        qkv: mx.array,
        q_norm: mx.array,
        k_norm: mx.array,
        eps: float,
        tail_keys: mx.array,
        tail_values: mx.array,
        body_lengths: mx.array,
        tail_lengths: mx.array,
        rotary_dims: int,
        base: float,
    ) -> tuple[mx.array, mx.array, mx.array, mx.array]: ...


class DecodeAttentionSeveral(Protocol):
    """See decode_attention_several.decode_attention_several."""

    def __call__(
        self,
        q: mx.array,
        body_keys: mx.array,
        body_values: mx.array,
        tail_keys: mx.array,
        tail_values: mx.array,
        body_lengths: mx.array,
        tail_lengths: mx.array,
        scale: float,
        gate: mx.array,
    ) -> mx.array: ...


class DeltaStepSeveral(Protocol):
    """See delta_step_several.delta_step_several."""

    def __call__(
        self,
        qkvz: mx.array,
        x: mx.array,
        in_proj_ab: AnyLinear | SeparateLinears,
        last: mx.array,
        conv_tails: mx.array,
        taps: mx.array,
        decay_rate: mx.array,
        dt_bias: mx.array,
        norm: mx.array,
        eps: float,
        recurrent: mx.array,
        key_heads: int,
        value_heads: int,
    ) -> tuple[mx.array, mx.array, mx.array]: ...


@dataclass(frozen=True, slots=True)
class Kernels:
    """One callable per region.

    The network looks its `kernels` up at every call, so that one step with recording twins can
    collect real arguments for the admission, which then hands the network its final set.
    """

    add_rms_norm: AddRmsNorm
    router_top_k: RouterTopK
    delta_step: DeltaStep
    qk_norm_rope: QkNormRope
    decode_attention: DecodeAttention
    expert_down: ExpertDown
    vocabulary_top_k: VocabularyTopK
    qk_norm_rope_several: QkNormRopeSeveral
    decode_attention_several: DecodeAttentionSeveral
    delta_step_several: DeltaStepSeveral

    @staticmethod
    def plain() -> Kernels:
        """The twins: plain operations, on any device."""
        return Kernels(
            add_rms_norm=residual_norm.add_rms_norm,
            router_top_k=router.router_top_k,
            delta_step=delta_step.delta_step,
            qk_norm_rope=qk_norm_rope.qk_norm_rope,
            decode_attention=decode_attention.decode_attention,
            expert_down=expert_down.expert_down,
            vocabulary_top_k=vocabulary_top_k.vocabulary_top_k,
            qk_norm_rope_several=qk_norm_rope_several.qk_norm_rope_several,
            decode_attention_several=decode_attention_several.decode_attention_several,
            delta_step_several=delta_step_several.delta_step_several,
        )
