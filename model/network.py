"""The decoder, on one page: embedding, layers of mixer and experts, final norm, output head.

Knows nothing of sampling, caches' bookkeeping or text. Residual stream: h = x + Mixer(RMS(x)); out
= h + Experts(RMS(h)). A decode step runs through `kernels`, one callable per fused region.
"""

from __future__ import annotations

import mlx.core as mx

from model import delta_rule
from model.attention import Attention
from model.config import LayerType, ModelConfig
from model.delta_net import DeltaNet
from model.experts import Experts
from model.kernels import Kernels
from model.quantized import AnyEmbedding, AnyLinear, ArraySource, embedding, linear
from model.state import LayerStates


class Layer:
    """One decoder layer: its mixer is either attention or Gated DeltaNet."""

    def __init__(
        self,
        config: ModelConfig,
        source: ArraySource,
        path: str,
        kind: LayerType,
        rule: delta_rule.DeltaRule,
        on_gpu: bool,
    ):
        self.input_norm = source.arrays[f"{path}.input_layernorm.weight"]
        self.post_attention_norm = source.arrays[f"{path}.post_attention_layernorm.weight"]
        self.mixer: Attention | DeltaNet
        if kind == "full_attention":
            self.mixer = Attention(config, source, f"{path}.self_attn")
        else:
            self.mixer = DeltaNet(config, source, f"{path}.linear_attn", rule)
        self.experts = Experts(config, source, f"{path}.mlp", on_gpu=on_gpu)


class Network:
    """The whole decoder over given arrays. `kernels` may be replaced before the first step."""

    def __init__(self, config: ModelConfig, source: ArraySource, dtype: mx.Dtype, *, on_gpu: bool):
        self.config = config
        self.dtype = dtype
        self.eps = config.rms_norm_eps
        self.kernels = Kernels.plain()
        rule, self.delta_rule_choice = delta_rule.choose(
            on_gpu=on_gpu,
            key_dim=config.linear_key_head_dim,
            value_dim=config.linear_value_head_dim,
        )
        self.embed_tokens: AnyEmbedding = embedding(source, "model.embed_tokens", dtype)
        self.layers = [
            Layer(config, source, f"model.layers.{i}", kind, rule, on_gpu)
            for i, kind in enumerate(config.layer_types)
        ]
        self.norm = source.arrays["model.norm.weight"]
        self.lm_head: AnyLinear = (
            self.embed_tokens.as_linear()
            if config.tie_word_embeddings
            else linear(source, "lm_head")
        )

    def prefill(
        self, tokens: mx.array, states: LayerStates, length: int
    ) -> tuple[mx.array, LayerStates]:
        """A chunk of tokens [B, T] after `length` tokens held in the bodies -> hidden [B, T,
        hidden], new states.
        """
        x = self.embed_tokens(tokens)
        updated = LayerStates()
        for layer in self.layers:
            h = self._normed(x, layer.input_norm)
            if isinstance(layer.mixer, Attention):
                mixed, kv = layer.mixer.prefill(h, states.kv[len(updated.kv)], length)
                updated.kv.append(kv)
            else:
                mixed, *moved = layer.mixer.prefill(h, *_recurrent(states, updated))
                _append_recurrent(updated, *moved)
            x = x + mixed
            h = self._normed(x, layer.post_attention_norm)
            x = x + layer.experts.prefill(h, self.kernels)
        return x, updated

    def step(
        self, token: mx.array, states: LayerStates, body_lengths: mx.array, tail_length: mx.array
    ) -> tuple[mx.array, LayerStates]:
        """One token of each row [B] -> hidden [B, 1, hidden] and new states; `body_lengths` int32
        [B], `tail_length` an int32 scalar.
        """
        kernels = self.kernels
        x = self.embed_tokens(token[:, None])
        updated = LayerStates()
        for layer in self.layers:
            h = self._normed(x, layer.input_norm)
            if isinstance(layer.mixer, Attention):
                kv = states.kv[len(updated.kv)]
                mixed, kv = layer.mixer.step(h, kv, body_lengths, tail_length, kernels)
                updated.kv.append(kv)
            else:
                mixed, *moved = layer.mixer.step(h, *_recurrent(states, updated), kernels)
                _append_recurrent(updated, *moved)
            x, h = kernels.add_rms_norm(x, mixed, layer.post_attention_norm, self.eps)
            x = layer.experts.step(h, x, kernels)
        return x, updated

    def several(
        self,
        tokens: mx.array,
        states: LayerStates,
        last: mx.array,
        body_lengths: mx.array,
        tail_lengths: mx.array,
    ) -> tuple[mx.array, LayerStates]:
        """A few tokens of each row [B, T] -> hidden [B, T, hidden] and new states: all T are
        written in the tails of their `kv`; the recurrent ones are kept after each token, in a
        second axis of places [B, T, ...]. So those of `states` [B, P, ...]: a row goes on from the
        place `last` int32 [B]. `body_lengths` and `tail_lengths` int32 [B].
        """
        kernels = self.kernels
        x = self.embed_tokens(tokens)
        updated = LayerStates()
        for layer in self.layers:
            h = self._normed(x, layer.input_norm)
            if isinstance(layer.mixer, Attention):
                kv = states.kv[len(updated.kv)]
                mixed, kv = layer.mixer.several(h, kv, body_lengths, tail_lengths, kernels)
                updated.kv.append(kv)
            else:
                kept = _recurrent(states, updated)
                mixed, *moved = layer.mixer.several(h, *kept, last, kernels)
                _append_recurrent(updated, *moved)
            x, h = kernels.add_rms_norm(x, mixed, layer.post_attention_norm, self.eps)
            x = layer.experts.step(h, x, kernels)
        return x, updated

    def normed(self, hidden: mx.array) -> mx.array:
        """hidden [..., hidden] after the final norm, as the output head takes it."""
        return self._normed(hidden, self.norm)

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden [..., hidden] -> float32 logits [..., vocabulary]."""
        return self.head(self.normed(hidden))

    def head(self, normed: mx.array) -> mx.array:
        """The logits of what is normed already."""
        return self.lm_head(normed).astype(mx.float32)

    def _normed(self, x: mx.array, weight: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, weight, self.eps)


def _recurrent(states: LayerStates, updated: LayerStates) -> tuple[mx.array, mx.array]:
    """The convolution tail and the matrices of the next layer to be updated."""
    index = len(updated.recurrent)
    return states.conv_tails[index], states.recurrent[index]


def _append_recurrent(updated: LayerStates, conv_tail: mx.array, recurrent: mx.array) -> None:
    updated.conv_tails.append(conv_tail)
    updated.recurrent.append(recurrent)
