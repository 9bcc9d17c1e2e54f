"""The twins against their formulas, written out in float64 for one head and one row at a time."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.kernels import Kernels, router
from tests.model.kernels import examples
from tests.model.kernels.examples import AFFINE8, MXFP8, DeltaSizes, Draw, ExpertSizes, HeadSizes

TWINS = Kernels.plain()
F32 = mx.float32


def f64(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + examples.EPS) * weight


def close(got: mx.array, want: np.ndarray, tolerance: float = 2e-5) -> bool:
    assert got.shape == want.shape
    return float(np.abs(f64(got) - want).max()) < tolerance * max(1.0, float(np.abs(want).max()))


def test_residual_and_norm() -> None:
    args = examples.residual_norm(Draw(F32), 3, 50, tokens=2)
    total, normed = TWINS.add_rms_norm(**args)
    want = f64(args["x"]) + f64(args["delta"])
    assert close(total, want)
    assert close(normed, rms(want, f64(args["weight"])))


@given(
    rows=st.integers(1, 4),
    count=st.integers(1, 40),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
    shared=st.booleans(),
    data=st.data(),
)
def test_router(
    rows: int, count: int, seed: int, coarse: bool, shared: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, count))
    logits = np.random.default_rng(seed).normal(size=(rows, count + shared)).astype(np.float32)
    if coarse:  # many ties
        logits = np.round(logits)
    experts, weights = TWINS.router_top_k(mx.array(logits), k, shared=shared)
    assert experts.dtype == mx.uint32
    assert weights.dtype == F32
    for row, ids, shares in zip(logits, experts.tolist(), f64(weights), strict=True):  # type: ignore[arg-type]
        routed = row[:count].astype(np.float64)
        best = sorted(range(count), key=lambda i: (-routed[i], i))[:k]
        want = np.exp(routed[best]) / np.exp(routed[best]).sum()
        if shared:
            best, want = [*best, count], [*want, sigmoid(row[count].astype(np.float64))]
        assert ids == best
        assert np.allclose(shares, want, atol=1e-6)


@given(
    count=st.sampled_from([2, 8, 33, 256]),
    levels=st.sampled_from([1, 4, 1000]),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_router_chooses_the_same_for_many_rows_as_for_few(
    count: int, levels: int, shared: bool, seed: int
) -> None:
    """With equal logits, zeros of both signs and numbers that are not finite among them."""
    random = np.random.default_rng(seed)
    rows = router.PARTITIONED
    logits = random.integers(-levels, levels, (rows, count + shared)).astype(np.float32)
    odd = random.random(logits.shape) < 0.1
    logits[odd] = random.choice([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0], int(odd.sum()))
    k = min(8, count)
    many, many_weights = router.router_top_k(mx.array(logits), k, shared=shared)
    for row in range(rows):
        one = mx.array(logits[row : row + 1])
        experts, weights = router.router_top_k(one, k, shared=shared)
        assert many[row].tolist() == experts[0].tolist()
        assert np.allclose(many_weights[row], weights[0], atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("sizes", [DeltaSizes(2, 4, 8, 12), DeltaSizes(3, 3, 32, 32, width=2)])
def test_delta_step(sizes: DeltaSizes) -> None:
    args = examples.delta_step(Draw(F32), 2, sizes)
    Hk, Hv, Dk, Dv = sizes.key_heads, sizes.value_heads, sizes.key_dim, sizes.value_dim
    channels = 2 * Hk * Dk + Hv * Dv
    qkvz, tail, taps = f64(args["qkvz"])[:, 0], f64(args["conv_tail"]), f64(args["taps"])
    inputs = np.concatenate([tail, qkvz[:, None, :channels]], axis=1)
    convolved = (inputs * taps).sum(axis=1)
    convolved = convolved * sigmoid(convolved)
    state = f64(args["recurrent"])
    a, b = np.split(f64(args["x"])[:, 0] @ f64(args["in_proj_ab"].weight).T, 2, axis=-1)
    want = np.zeros((2, Hv, Dv))
    for row in range(2):
        for head in range(Hv):
            at = head // (Hv // Hk) * Dk
            q, k = convolved[row, at : at + Dk], convolved[row, Hk * Dk + at : Hk * Dk + at + Dk]
            q, k = (x / np.sqrt((x * x).sum() + 1e-6) for x in (q, k))
            v = convolved[row, 2 * Hk * Dk + head * Dv :][:Dv]
            beta = sigmoid(b[row, head])
            step = np.log1p(np.exp(a[row, head] + f64(args["dt_bias"])[head]))
            S = state[row, head] * np.exp(-f64(args["decay_rate"])[head] * step)
            S = S + beta * np.outer(v - S @ k, k)
            state[row, head] = S
            out = rms(S @ (q * Dk**-0.5), f64(args["norm"]))
            z = qkvz[row, channels + head * Dv :][:Dv]
            want[row, head] = out * z * sigmoid(z)
    out, new_tail, recurrent = TWINS.delta_step(**args)
    assert close(out, want.reshape(2, 1, -1))
    assert close(new_tail, inputs[:, 1:])
    assert close(recurrent, state)


@pytest.mark.parametrize("places", [1, 3])
def test_delta_step_several(places: int) -> None:
    """Token by token what one token gives, each row from the place that counts."""
    args = examples.delta_step_several(Draw(F32), 3, 4, places, DeltaSizes(2, 4, 8, 12))
    args["last"] = mx.array([2, 0, 1], mx.int32)
    found = TWINS.delta_step_several(**args)
    assert [x.shape[:2] for x in found] == [(3, 4)] * 3
    single = {name: args[name] for name in args if name not in ("last", "conv_tails")}
    for row, place in enumerate([0] * 3 if places == 1 else [2, 0, 1]):
        single["conv_tail"] = args["conv_tails"][row : row + 1, place]
        single["recurrent"] = args["recurrent"][row : row + 1, place]
        for token in range(4):
            fed = {name: args[name][row : row + 1, token : token + 1] for name in ("qkvz", "x")}
            out, single["conv_tail"], single["recurrent"] = TWINS.delta_step(**{**single, **fed})
            wanted = out[0, 0], single["conv_tail"][0], single["recurrent"][0]
            for got, want in zip(found, wanted, strict=True):
                assert close(got[row, token], f64(want))


@pytest.mark.parametrize("rotary_dims", [2, 8, 16])
def test_qk_norm_rope(rotary_dims: int) -> None:
    H, K, D = 4, 2, 16
    args = examples.qk_norm_rope(Draw(F32), 3, HeadSizes(H, K, D), rotary_dims, last=50)
    qkv = f64(args["qkv"])[:, 0]
    q_gate = qkv[:, : 2 * H * D].reshape(3, H, 2, D)
    keys, values = qkv[:, 2 * H * D :].reshape(3, 2, K, D).swapaxes(0, 1)
    half = rotary_dims // 2
    place = int(args["tail_length"])
    angles = (f64(args["body_lengths"]) + place)[:, None] * 1e7 ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotated(x: np.ndarray, weight: mx.array) -> np.ndarray:
        x = rms(x, f64(weight))
        first, second, rest = x[..., :half], x[..., half:rotary_dims], x[..., rotary_dims:]
        parts = [first * cos - second * sin, second * cos + first * sin, rest]
        return np.concatenate(parts, axis=-1)[:, :, None]

    q, gate, tail_keys, tail_values = TWINS.qk_norm_rope(**args)
    assert close(q, rotated(q_gate[:, :, 0], args["q_norm"]))
    assert close(gate, q_gate[:, :, 1].reshape(3, 1, H * D))
    want_keys, want_values = f64(args["tail_keys"]), f64(args["tail_values"])
    want_keys[:, :, place] = rotated(keys, args["k_norm"])[:, :, 0]
    want_values[:, :, place] = values
    assert close(tail_keys, want_keys)
    assert close(tail_values, want_values)


@pytest.mark.parametrize("capacity", [0, 24])
def test_decode_attention(capacity: int) -> None:
    H, K, D, tail_length = 6, 2, 16, 5
    sizes = HeadSizes(H, K, D)
    args = examples.decode_attention(Draw(F32), 3, sizes, capacity, 8, tail_length)
    want = np.zeros((3, H, D))
    for row, length in enumerate(args["body_lengths"].tolist()):
        for head in range(H):
            group = head // (H // K)
            keys, values = (
                np.concatenate(
                    [
                        f64(args[f"body_{part}"])[row, group, :length],
                        f64(args[f"tail_{part}"])[row, group, :tail_length],
                    ]
                )
                for part in ("keys", "values")
            )
            scores = keys @ f64(args["q"])[row, head, 0] * D**-0.5
            shares = np.exp(scores - scores.max())
            want[row, head] = shares @ values / shares.sum()
    want = want.reshape(3, 1, H * D) * sigmoid(f64(args["gate"]))
    assert close(TWINS.decode_attention(**args), want)


@pytest.mark.parametrize("tokens", [1, 3])
def test_qk_norm_rope_several(tokens: int) -> None:
    """Token by token what one token gives, each row at a place of its own."""
    args = examples.qk_norm_rope_several(Draw(F32), 3, tokens, HeadSizes(4, 2, 16), 8, last=50)
    args["tail_lengths"] = mx.array([0, 20 - tokens, 7], mx.int32)
    q, gate, tail_keys, tail_values = TWINS.qk_norm_rope_several(**args)
    for row, first in enumerate([0, 20 - tokens, 7]):
        one = {name: args[name][row : row + 1] for name in ("tail_keys", "tail_values")}
        one["body_lengths"] = args["body_lengths"][row : row + 1]
        single = {name: args[name] for name in args if name != "tail_lengths"} | one
        for token in range(tokens):
            single["qkv"] = args["qkv"][row : row + 1, token : token + 1]
            single["tail_length"] = mx.array(first + token, mx.int32)
            want = TWINS.qk_norm_rope(**single)
            single |= {"tail_keys": want[2], "tail_values": want[3]}
            assert close(q[row : row + 1, :, token : token + 1], f64(want[0]))
            assert close(gate[row : row + 1, token : token + 1], f64(want[1]))
        assert close(tail_keys[row : row + 1], f64(single["tail_keys"]))
        assert close(tail_values[row : row + 1], f64(single["tail_values"]))


@pytest.mark.parametrize("capacity", [0, 24])
@pytest.mark.parametrize("tokens", [1, 3])
def test_decode_attention_several(capacity: int, tokens: int) -> None:
    """Token by token what one token gives, over the places up to its own."""
    sizes = HeadSizes(6, 2, 16)
    args = examples.decode_attention_several(Draw(F32), 3, tokens, sizes, capacity, 8)
    args["tail_lengths"] = mx.array([0, 8 - tokens, 2], mx.int32)
    got = TWINS.decode_attention_several(**args)
    assert got.shape == (3, tokens, 6 * 16)
    of_rows = [name for name in args if isinstance(args[name], mx.array)]
    for row, first in enumerate([0, 8 - tokens, 2]):
        single = {**args, **{name: args[name][row : row + 1] for name in of_rows}}
        del single["tail_lengths"]
        for token in range(tokens):
            single["q"] = args["q"][row : row + 1, :, token : token + 1]
            single["gate"] = args["gate"][row : row + 1, token : token + 1]
            single["tail_length"] = mx.array(first + token + 1, mx.int32)
            want = TWINS.decode_attention(**single)
            assert close(got[row : row + 1, token : token + 1], f64(want))


@pytest.mark.parametrize("spec", [None, MXFP8, AFFINE8])
@pytest.mark.parametrize("residual", [False, True])
def test_expert_down(spec: examples.QuantSpec | None, residual: bool) -> None:
    sizes = ExpertSizes(5, 3, 64, 24)
    args = examples.expert_down(Draw(F32), 4, sizes, spec, residual=residual)
    weight = f64(examples.in_float32(args)["down"].weight)
    want = f64(args["residual"]) if residual else np.zeros((4, 24))
    for row, chosen in enumerate(args["experts"].tolist()):
        for place, expert in enumerate(chosen):
            gate, up = np.split(f64(args["gate_up"])[row, place], 2)
            inner = gate * sigmoid(gate) * up
            want[row] += f64(args["weights"])[row, place] * (weight[expert] @ inner)
    assert close(TWINS.expert_down(**args), want)
