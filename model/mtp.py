"""The MTP head: from what the network made of a token, and the token after it, a guess at the one
after that.

x = W [RMS(embedding of the next token), RMS(hidden)]; one attention layer with experts and KV of
its own; RMS. Embedding and output head are the network's. `hidden` is the network's after its final
norm or, for a guess further ahead, the head's own output (as in mlx-node and vLLM).

The head attends over the last WINDOW tokens or so, not all: its guesses are verified, so they need
not be exact, and a step costs the same after any context.
"""

from __future__ import annotations

import mlx.core as mx

from model import delta_rule
from model.attention import Attention, KVBuffers
from model.config import ModelConfig
from model.draft_head import DraftHead
from model.kernels import Kernels
from model.network import Layer, Network
from model.quantized import ArraySource, linear

WINDOW = 1024  # tokens that it sees at least, where there are so many


class MtpHead:
    """The head over given arrays, behind `network`. draft: what turns its output into logits where
    one of a part of the vocabulary is guessed; None: the network's output head."""

    def __init__(
        self,
        config: ModelConfig,
        source: ArraySource,
        network: Network,
        *,
        on_gpu: bool,
        draft: DraftHead | None = None,
    ):
        self.config = config
        self.network = network
        self.draft = draft
        self.fc = linear(source, "mtp.fc")
        self.embedding_norm = source.arrays["mtp.pre_fc_norm_embedding.weight"]
        self.hidden_norm = source.arrays["mtp.pre_fc_norm_hidden.weight"]
        self.layer = Layer(
            config, source, "mtp.layers.0", "full_attention", delta_rule.plain, on_gpu
        )
        self.norm = source.arrays["mtp.norm.weight"]

    def __call__(
        self,
        hidden: mx.array,
        tokens: mx.array,
        keys: mx.array,
        values: mx.array,
        counts: mx.array,
        offsets: mx.array,
        *,
        many: bool = False,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """A few places of each row: hidden [B, T, H], normed, and the tokens [B, T] after them.

        keys and values [B, K, C, D] hold `counts` int32 [B] places of each row and get T more;
        `offsets` int32 [B] places were before those. `many`: of a prompt, as not in a compiled
        step. Returns its hidden [B, T, H], normed, and the new keys and values.
        """
        network, layer, eps = self.network, self.layer, self.config.rms_norm_eps
        assert isinstance(layer.mixer, Attention)  # noqa: S101 - of its kind, for the type checker
        embedded = mx.fast.rms_norm(network.embed_tokens(tokens), self.embedding_norm, eps)
        both = mx.concatenate([embedded, mx.fast.rms_norm(hidden, self.hidden_norm, eps)], axis=-1)
        x = self.fc(both)
        h = mx.fast.rms_norm(x, layer.input_norm, eps)
        # What was before is not seen any more: positions count it, a body would hold it.
        none = keys[:, :, :0]
        buffers = KVBuffers(none, none, keys, values)
        # Sizes that come once are not worth a kernel that is compiled for them.
        kernels = Kernels.plain() if many else network.kernels
        mixed, kv = layer.mixer.several(h, buffers, offsets, counts, kernels)
        x, h = network.kernels.add_rms_norm(x, mixed, layer.post_attention_norm, eps)
        if many:
            x = x + layer.experts.prefill(h, network.kernels)
        else:
            x = layer.experts.step(h, x, network.kernels)
        return mx.fast.rms_norm(x, self.norm, eps), kv.tail_keys, kv.tail_values
