"""The gated delta rule, S ← g S; S ← S + β (v - S k) kᵀ; o = S q, in three forms that agree.

`recurrent_step` is the definition for one token. `chunked` is the matrix form for many tokens (Yang
et al. 2024, the UT transform of "Parallelizing Linear Transformers with the Delta Rule"): inside a
chunk the updates are one triangular solve. `built_in` is `mx.fast.gated_delta_update`, a fused
kernel on GPUs and a sequential loop on the CPU. `choose()` admits the fused one only where it runs
on a GPU and agrees with the plain form on this machine.

Shapes: q, k [B, T, Hk, Dk]; v [B, T, Hv, Dv]; log_decay, beta [B, T, Hv]; state [B, Hv, Dv, Dk];
all float32.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

CHUNK = 64

DeltaRule = Callable[
    [mx.array, mx.array, mx.array, mx.array, mx.array, mx.array], tuple[mx.array, mx.array]
]


def _per_value_head(x: mx.array, value_heads: int) -> mx.array:
    """Each key head serves Hv / Hk neighbouring value heads."""
    repeats = value_heads // x.shape[2]
    return mx.repeat(x, repeats, axis=2) if repeats > 1 else x


def recurrent_step(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """One token (T = 1). Returns the output [B, 1, Hv, Dv] and the new state.

    The matrices of the value heads that share a key head are neighbours: one matrix [R·Dv, Dk].
    """
    B, _, groups, key_dim = k.shape
    heads, value_dim = v.shape[2:]
    stacked = (B, groups, heads // groups * value_dim, key_dim)
    q, k = q.reshape(B, groups, key_dim, 1), k.reshape(B, groups, key_dim, 1)
    decay = mx.exp(log_decay).reshape(B, heads, 1)
    recalled = (state.reshape(stacked) @ k).reshape(B, heads, value_dim) * decay
    written = (v.squeeze(1) - recalled) * beta.reshape(B, heads, 1)
    decayed = (state * decay[..., None]).reshape(stacked)
    state = decayed + written.reshape(B, groups, -1, 1) * k.swapaxes(-1, -2)
    out = (state @ q).reshape(B, 1, heads, value_dim)
    return out, state.reshape(B, heads, value_dim, key_dim)


def chunked(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """Any number of tokens, in chunks of 64. Returns outputs [B, T, Hv, Dv] and the new state."""
    B, T, heads, _ = v.shape
    q, k = _per_value_head(q, heads), _per_value_head(k, heads)
    padding = -T % CHUNK
    count = (T + padding) // CHUNK

    def split(x: mx.array) -> mx.array:
        """[B, T, Hv, ...] -> [B, Hv, chunks, CHUNK, ...]; a padded token has β = 0 and no decay: it
        changes nothing.
        """
        if padding:
            x = mx.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
        return mx.moveaxis(x.reshape(B, count, CHUNK, heads, *x.shape[3:]), 3, 1)

    q, k, v, log_decay, beta = (split(x) for x in (q, k, v, log_decay, beta))
    total = mx.cumsum(log_decay, axis=-1)  # [B, Hv, chunks, CHUNK]
    lower = mx.tri(CHUNK, dtype=mx.bool_)
    decay = mx.exp(mx.where(lower, total[..., :, None] - total[..., None, :], -mx.inf))
    weighted_k = k * beta[..., None]
    # (I + L) u = β v, L strictly lower: what every token writes after those before it in the chunk
    # wrote.
    interaction = (weighted_k @ k.swapaxes(-1, -2)) * decay * mx.tri(CHUNK, k=-1)
    inverse = mx.linalg.tri_inv(interaction + mx.eye(CHUNK), stream=mx.cpu)
    written = inverse @ (v * beta[..., None])
    read_back = inverse @ (weighted_k * mx.exp(total)[..., None])
    within = (q @ k.swapaxes(-1, -2)) * decay
    q_decayed = q * mx.exp(total)[..., None]
    last = total[..., -1:]
    k_to_end = k * mx.exp(last - total)[..., None]
    chunk_decay = mx.exp(last)[..., None]  # [B, Hv, chunks, 1, 1]

    outputs = []
    for i in range(count):
        transposed = state.swapaxes(-1, -2)  # [B, Hv, Dk, Dv]
        update = written[:, :, i] - read_back[:, :, i] @ transposed
        outputs.append(q_decayed[:, :, i] @ transposed + within[:, :, i] @ update)
        state = state * chunk_decay[:, :, i] + update.swapaxes(-1, -2) @ k_to_end[:, :, i]
    out = mx.concatenate(outputs, axis=2)[:, :, :T]  # [B, Hv, T, Dv]
    return out.swapaxes(1, 2), state


def plain(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """The form of ordinary array operations that suits T."""
    form = recurrent_step if v.shape[1] == 1 else chunked
    return form(q, k, v, log_decay, beta, state)


def built_in(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """MLX's own fused update."""
    out, state = mx.fast.gated_delta_update(q, k, v, mx.exp(log_decay), beta, state)
    return out, state


def choose(*, on_gpu: bool, key_dim: int, value_dim: int) -> tuple[DeltaRule, str]:
    """The form to run and, for the log, why."""
    if not on_gpu:
        return plain, "plain operations (the fused update is sequential on the CPU)"
    try:
        error = max(_disagreement(tokens, key_dim, value_dim) for tokens in (1, 70))
    except (RuntimeError, ValueError) as failure:
        return plain, f"plain operations (the fused update failed: {failure})"
    if not error < 1e-3:
        return plain, f"plain operations (the fused update differs by {error:.1e})"
    return built_in, f"mx.fast.gated_delta_update (differs by {error:.1e} from plain operations)"


def _disagreement(tokens: int, key_dim: int, value_dim: int) -> float:
    """Largest difference between the fused and the plain form on a random example."""
    keys = iter(mx.random.split(mx.random.key(7), 6))

    def normal(*shape: int) -> mx.array:
        return mx.random.normal(shape, key=next(keys))

    q, k = normal(1, tokens, 2, key_dim), normal(1, tokens, 2, key_dim)
    q, k = (x / mx.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    v = normal(1, tokens, 4, value_dim)
    log_decay = -mx.abs(normal(1, tokens, 4))
    beta = mx.sigmoid(normal(1, tokens, 4))
    state = normal(1, 4, value_dim, key_dim)
    ours, theirs = (f(q, k, v, log_decay, beta, state) for f in (plain, built_in))
    return max(float(mx.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
