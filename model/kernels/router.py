"""The router's choice: the k largest of E logits and their softmax, without sorting all of them.

Softmax over all experts renormalised over the chosen is the softmax over the chosen. Shapes: N
tokens, E experts, k experts per token.
"""

from __future__ import annotations

import mlx.core as mx


def router_top_k(logits: mx.array, k: int, *, shared: bool = False) -> tuple[mx.array, mx.array]:
    """logits [N, E] of any float type -> (experts uint32 [N, k], weights float32 [N, k]). Plain
    operations.

    The chosen come by descending logit, ties by the lower number; a NaN counts as the lowest. With
    `shared` the logits have one more column, the gate of the shared expert, and the results have
    one more column: expert number E, weighted by the sigmoid of that gate.
    """
    logits = logits.astype(mx.float32)
    gate = logits[:, -1:]
    if shared:
        logits = logits[:, :-1]
    # argsort is stable, so equal logits stay in the order of their numbers.
    experts = mx.argsort(-logits, axis=-1)[:, :k]
    weights = mx.softmax(mx.take_along_axis(logits, experts, axis=-1), axis=-1)
    if shared:
        last = mx.full((logits.shape[0], 1), logits.shape[1], mx.uint32)
        experts = mx.concatenate([experts, last], axis=-1)
        weights = mx.concatenate([weights, mx.sigmoid(gate)], axis=-1)
    return experts, weights
