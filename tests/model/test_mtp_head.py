"""The MTP head against the formula, written out once more in numpy; the state after every token."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from model.loading import DEMO_FOLDER, Model, load_model
from model.mtp import WINDOW
from model.mtp_state import MtpState
from model.state import TAIL, SequenceState
from tests.model.test_decoder import tokens_of


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(DEMO_FOLDER, mtp_depth=1)


def rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (1 + weight)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def stored_head() -> dict[str, np.ndarray]:
    """As the file has it, in the original layout."""
    loaded: Any = mx.load(str(DEMO_FOLDER / "mtp.safetensors"))
    return {
        name.removeprefix("mtp."): np.array(array.astype(mx.float32), np.float64)
        for name, array in loaded.items()
    }


def attention(x: np.ndarray, w: dict[str, np.ndarray], config: Any) -> np.ndarray:
    """x [T, H] -> [T, H]: gated, causal, with rotated queries and keys."""
    T, D = len(x), config.head_dim
    heads, groups, eps = config.num_attention_heads, config.num_key_value_heads, config.rms_norm_eps
    qg = (x @ w["q_proj.weight"].T).reshape(T, heads, 2 * D)
    q, gate = qg[..., :D], qg[..., D:]
    k = (x @ w["k_proj.weight"].T).reshape(T, groups, D)
    v = (x @ w["v_proj.weight"].T).reshape(T, groups, D)
    half = config.rotary_dims // 2
    angles = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(half) / half)

    def rotated(y: np.ndarray) -> np.ndarray:
        a, b, rest = y[..., :half], y[..., half : 2 * half], y[..., 2 * half :]
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)

    q, k = rotated(rms(q, w["q_norm.weight"], eps)), rotated(rms(k, w["k_norm.weight"], eps))
    out = np.zeros((T, heads, D))
    for head in range(heads):
        group = head // (heads // groups)
        scores = q[:, head] @ k[:, group].T / np.sqrt(D)
        scores[np.triu_indices(T, 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, group]
    return (out * sigmoid(gate)).reshape(T, -1) @ w["o_proj.weight"].T


def experts(x: np.ndarray, w: dict[str, np.ndarray], config: Any) -> np.ndarray:
    def swiglu(y: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
        g = gate @ y
        return down @ (g * sigmoid(g) * (up @ y))

    out = np.zeros_like(x)
    for t, y in enumerate(x):
        logits = w["gate.weight"] @ y
        p = np.exp(logits - logits.max())
        chosen = np.argsort(-p)[: config.num_experts_per_tok]
        for e in chosen:
            gate, up = np.split(w["experts.gate_up_proj"][e], 2)
            part = swiglu(y, gate, up, w["experts.down_proj"][e])
            out[t] += p[e] / p[chosen].sum() * part
        shared = (w[f"shared_expert.{n}_proj.weight"] for n in ("gate", "up", "down"))
        out[t] += sigmoid(w["shared_expert_gate.weight"] @ y) * swiglu(y, *shared)
    return out


def formula(hidden: np.ndarray, embedded: np.ndarray, config: Any) -> np.ndarray:
    """hidden [T, H] and the embeddings [T, H] of the tokens after -> [T, H]."""
    w, eps = stored_head(), config.rms_norm_eps
    layer = {n.removeprefix("layers.0."): a for n, a in w.items() if n.startswith("layers.0.")}

    def under(prefix: str) -> dict[str, np.ndarray]:
        return {n.removeprefix(prefix): a for n, a in layer.items() if n.startswith(prefix)}

    both = [
        rms(embedded, w["pre_fc_norm_embedding.weight"], eps),
        rms(hidden, w["pre_fc_norm_hidden.weight"], eps),
    ]
    x = np.concatenate(both, -1) @ w["fc.weight"].T
    x = x + attention(rms(x, layer["input_layernorm.weight"], eps), under("self_attn."), config)
    x = x + experts(rms(x, layer["post_attention_layernorm.weight"], eps), under("mlp."), config)
    return rms(x, w["norm.weight"], eps)


@pytest.mark.parametrize("many", [False, True])
def test_the_head_computes_its_formula(model: Model, many: bool) -> None:
    assert model.steps.mtp is not None
    head, network, count = model.steps.mtp.steps.head, model.network, 24
    tokens = tokens_of(3, count + 1)
    state = SequenceState(model.config, network.dtype)
    hidden = network.normed(model.steps.prefill(state, tokens[:-1]))
    following = mx.array([tokens[1:]])
    keys, values = MtpState().buffers(head, WINDOW, network.dtype)
    outputs, at = [], 0
    for width in (count,) if many else (1, 4, 2, 3, 1, 4, 4, 3, 2):
        out, keys, values = head(
            hidden[:, at : at + width],
            following[:, at : at + width],
            keys,
            values,
            mx.array([at], mx.int32),
            mx.array([0], mx.int32),
            many=many,
        )
        outputs.append(out)
        at += width
    assert at == count
    ours = np.array(mx.concatenate(outputs, axis=1))[0]
    embedded = np.array(network.embed_tokens(following))[0].astype(np.float64)
    wanted = formula(np.array(hidden)[0].astype(np.float64), embedded, model.config)
    assert np.abs(ours - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("length", [1, 30, 300])
def test_the_state_after_every_token_is_that_of_one_token_after_another(
    model: Model, length: int
) -> None:
    """Two rows with tails of different lengths; what was written behind a tail's end counts not."""
    network, width = model.network, 4
    tokens = tokens_of(5, length + width + 9)
    states, starts = [], (length, length + 5)
    for _ in starts:
        state = SequenceState(model.config, network.dtype)
        model.steps.prefill(state, tokens[:length])
        states.append(state)
    # The second row has 5 tokens in its tail, the first one none.
    for token in tokens[length : length + 5]:
        state = states[1]
        _, state.layers = network.step(
            mx.array([token]),
            state.layers,
            mx.array([state.body_length], mx.int32),
            mx.array(state.tail_length, mx.int32),
        )
        state.tail_length += 1
    for state, start in zip(states, starts, strict=True):
        fed = tokens[start : start + width]
        layers = state.layers.shared()
        layers.conv_tails = [x[:, None] for x in layers.conv_tails]
        layers.recurrent = [x[:, None] for x in layers.recurrent]
        hidden, after = network.several(
            mx.array([fed]),
            layers,
            mx.array([0], mx.int32),
            mx.array([state.body_length], mx.int32),
            mx.array([state.tail_length], mx.int32),
        )
        plain = state.fork()
        for place, token in enumerate(fed):
            wanted, plain.layers = network.step(
                mx.array([token]),
                plain.layers,
                mx.array([plain.body_length], mx.int32),
                mx.array(plain.tail_length, mx.int32),
            )
            plain.tail_length += 1
            assert float(mx.abs(hidden[:, place] - wanted[:, 0]).max()) < 1e-3
            for name in ("conv_tails", "recurrent"):
                pairs = zip(getattr(after, name), getattr(plain.layers, name), strict=True)
                assert all(float(mx.abs(a[:, place] - b).max()) < 1e-4 for a, b in pairs)
            end = plain.tail_length
            assert end < TAIL
            for ours, theirs in zip(after.kv, plain.layers.kv, strict=True):
                for part in ("tail_keys", "tail_values"):
                    a, b = getattr(ours, part)[:, :, :end], getattr(theirs, part)[:, :, :end]
                    assert float(mx.abs(a - b).max()) < 1e-4
