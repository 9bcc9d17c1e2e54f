"""A checkpoint's network, one layer at a time, in float32 and dequantized.

So a checkpoint of any size and storage runs in the memory of one layer, and what differs between
two of them is what their weights say, not how a device multiplies. Knows how a layer is fed; what
is measured there is its callers' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from model import delta_rule
from model import device as devices
from model.attention import Attention, KVBuffers
from model.checkpoint import Weights, load_planned
from model.config import ModelConfig, read_config
from model.joining import Join, layer_joins
from model.kernels import Kernels
from model.load_plan import LoadPlan, PlannedTensor, plan_loading
from model.loading import DEMO_FOLDER, resolve
from model.network import Layer
from model.quantized import ExpertLinear
from model.tensors import parameter_count
from model.tokenizer import Tokenizer

# Told (modules, what multiplies them [tokens, in]); of routed experts also which expert it is.
SeesInput = Callable[[tuple[str, ...], mx.array, int | None], None]
Chosen = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class StreamedCheckpoint:
    """A checkpoint whose headers were read and checked."""

    name: str
    folder: Path
    config: ModelConfig
    plan: LoadPlan

    def tokenizer(self) -> Tokenizer:
        """The folder's own."""
        return Tokenizer.from_folder(self.folder)

    def tensor(self, name: str) -> mx.array:
        """One tensor of the network in float32."""
        return self._load(lambda found: found == name)[name]

    def planned(self) -> dict[str, PlannedTensor]:
        """How each tensor is stored, by name."""
        return {tensor.name: tensor for tensor in self.plan.tensors}

    @property
    def stored_bytes(self) -> int:
        """Size of the text network's tensors on disk."""
        stored = {s.stored.name: s.stored for t in self.plan.tensors for s in t.sources()}
        return sum(tensor.nbytes for tensor in stored.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits by the number of weights, scales and unquantized tensors included."""
        return 8 * self.stored_bytes / parameter_count(self.config)

    def embedded(self, windows: Iterable[list[int]]) -> list[mx.array]:
        """The hidden states [1, T, hidden] before the first layer of each window."""
        table = self.tensor("model.embed_tokens.weight")
        hidden = [table[mx.array(window)][None] for window in windows]
        mx.eval(hidden)
        return hidden

    def layer(self, index: int) -> StreamedLayer:
        """One layer, loaded."""
        config, kind = self.config, self.config.layer_types[index]
        path = f"model.layers.{index}"
        joins = layer_joins(config, path, kind, lambda module: None)
        arrays = self._load(lambda name: name.startswith(f"{path}."), joins)
        on_gpu = devices.current().kind != "cpu"
        rule, _ = delta_rule.choose(
            on_gpu=on_gpu,
            key_dim=config.linear_key_head_dim,
            value_dim=config.linear_value_head_dim,
        )
        source = Weights(arrays, {}, (), 0, "")
        return StreamedLayer(config, path, Layer(config, source, path, kind, rule, on_gpu))

    def head(self) -> StreamedHead:
        """The final norm and the output head, loaded."""
        tied = self.config.tie_word_embeddings
        matrix = self.tensor("model.embed_tokens.weight" if tied else "lm_head.weight")
        return StreamedHead(self.tensor("model.norm.weight"), matrix, self.config.rms_norm_eps)

    def _load(
        self, wanted: Callable[[str], bool], joins: Iterable[Join] = ()
    ) -> dict[str, mx.array]:
        tensors = tuple(tensor for tensor in self.plan.tensors if wanted(tensor.name))
        files = {source.stored.file for tensor in tensors for source in tensor.sources()}
        part = LoadPlan(tensors, tuple(sorted(files)), ())
        return load_planned(part, joins, mx.float32, dequantize=True)[0]


def open_checkpoint(path: str, name: str | None = None) -> StreamedCheckpoint:
    """A folder, a hub id or `demo`, checked by its headers. Raises CheckpointError."""
    folder = DEMO_FOLDER if path == "demo" else resolve(path)
    config = read_config(folder)
    given = name or folder.resolve().name
    return StreamedCheckpoint(given, folder, config, plan_loading(folder, config))


@dataclass(frozen=True, slots=True)
class StreamedHead:
    """norm [hidden] and matrix [vocabulary, hidden]."""

    norm: mx.array
    matrix: mx.array
    eps: float

    def normed(self, hidden: mx.array) -> mx.array:
        """hidden [..., hidden] as the output head takes it."""
        return mx.fast.rms_norm(hidden, self.norm, self.eps)

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden [T, hidden] -> float32 logits [T, vocabulary]."""
        return self.normed(hidden) @ self.matrix.T


@dataclass(frozen=True, slots=True)
class StreamedLayer:
    """One layer. path: `model.layers.N`."""

    config: ModelConfig
    path: str
    layer: Layer

    def __call__(self, x: mx.array, see: SeesInput | None = None) -> tuple[mx.array, Chosen]:
        """x [1, T, hidden], the beginning of a sequence -> the layer's output, and the experts that
        were chosen [T, experts per token], likeliest first. `see` is shown what multiplies each of
        the layer's matrices."""
        layer, eps = self.layer, self.config.rms_norm_eps
        chosen: list[mx.array] = []
        kernels = Kernels.plain()

        def route(logits: mx.array, k: int, *, shared: bool = False) -> tuple[mx.array, mx.array]:
            experts, weights = kernels.router_top_k(logits, k, shared=shared)
            chosen.append(experts)
            return experts, weights

        normed = mx.fast.rms_norm(x, layer.input_norm, eps)
        with _Shown(self, see):
            x = x + self._mixed(normed)
            feed = mx.fast.rms_norm(x, layer.post_attention_norm, eps)
            x = x + layer.experts.prefill(feed, replace(kernels, router_top_k=route))
            mx.eval(x, chosen[0])
        ids = np.array(chosen[0])
        if see is not None:
            self._show_inputs(normed[0], feed[0], ids, see)
        return x, ids

    def _mixed(self, normed: mx.array) -> mx.array:
        config, mixer, length = self.config, self.layer.mixer, normed.shape[1]
        if isinstance(mixer, Attention):
            shape = (1, config.num_key_value_heads, length, config.head_dim)
            body, tail = mx.zeros(shape), mx.zeros((*shape[:2], 0, shape[3]))
            return mixer.prefill(normed, KVBuffers(body, body, tail, tail), 0)[0]
        values = config.linear_num_value_heads * config.linear_value_head_dim
        keys = config.linear_num_key_heads * config.linear_key_head_dim
        heads = config.linear_num_value_heads
        conv_tail = mx.zeros((1, config.linear_conv_kernel_dim - 1, 2 * keys + values))
        matrices = (1, heads, config.linear_value_head_dim, config.linear_key_head_dim)
        return mixer.prefill(normed, conv_tail, mx.zeros(matrices))[0]

    def _show_inputs(
        self, normed: mx.array, feed: mx.array, chosen: Chosen, see: SeesInput
    ) -> None:
        """Shows normed and feed [T, hidden], and what each routed expert gets and makes of it."""
        see(self._modules(*self._inputs()), normed, None)
        experts, mlp = self.layer.experts, f"{self.path}.mlp"
        shared = [f"shared_expert.{part}_proj" for part in ("gate", "up")]
        see(self._modules("mlp.gate", "mlp.shared_expert_gate"), feed, None)
        see(tuple(f"{mlp}.{name}" for name in shared), feed, None)
        assert isinstance(experts.gate_up, ExpertLinear)  # noqa: S101 - dequantized ones are joined
        pair = tuple(f"{mlp}.switch_mlp.{part}_proj" for part in ("gate", "up"))
        for expert in range(self.config.num_experts):
            tokens = np.flatnonzero((chosen == expert).any(axis=-1))
            if not tokens.size:
                continue
            taken = feed[mx.array(tokens)]
            see(pair, taken, expert)
            gate, up = mx.split(experts.gate_up.of(expert)(taken), 2, axis=-1)
            made = gate * mx.sigmoid(gate) * up
            see((f"{mlp}.switch_mlp.down_proj",), made, expert)

    def _inputs(self) -> tuple[str, ...]:
        if isinstance(self.layer.mixer, Attention):
            return tuple(f"self_attn.{part}_proj" for part in "qkv")
        return tuple(f"linear_attn.in_proj_{part}" for part in ("qkv", "z", "a", "b"))

    def _modules(self, *names: str) -> tuple[str, ...]:
        return tuple(f"{self.path}.{name}" for name in names)


class _Shown:
    """While it is open, the matrices that end a layer's branches show what multiplies them."""

    def __init__(self, streamed: StreamedLayer, see: SeesInput | None) -> None:
        layer, path = streamed.layer, streamed.path
        self._see = see
        mixer: Any = layer.mixer
        is_attention = isinstance(layer.mixer, Attention)
        branch, out = ("self_attn", "o_proj") if is_attention else ("linear_attn", "out_proj")
        self._places: list[tuple[Any, str, str]] = [
            (mixer, out, f"{path}.{branch}.{out}"),
            (layer.experts, "shared_down", f"{path}.mlp.shared_expert.down_proj"),
        ]
        self._kept: list[Any] = []

    def __enter__(self) -> None:
        if self._see is None:
            return
        for holder, attribute, module in self._places:
            inner = getattr(holder, attribute)
            self._kept.append(inner)
            setattr(holder, attribute, self._showing(inner, module))

    def __exit__(self, *error: object) -> None:
        for (holder, attribute, _), inner in zip(self._places, self._kept, strict=False):
            setattr(holder, attribute, inner)

    def _showing(self, inner: Callable[[mx.array], mx.array], module: str) -> Any:
        see = cast(SeesInput, self._see)

        def showing(x: mx.array) -> mx.array:
            see((module,), x.reshape(-1, x.shape[-1]), None)
            return inner(x)

        return showing
