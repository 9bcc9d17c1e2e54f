"""A reference and other checkpoints of the same network side by side, layer by layer over one text.

Every network goes its own way from the embedding on; what is compared at a layer is its router's
choice and its matrices, and at the end what the networks predict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from model.errors import CheckpointError
from model.quality.divergence import Divergence, log_softmax
from model.quality.moments import Moments, check_finite
from model.quality.streaming import Chosen, StreamedCheckpoint
from model.quality.tensor_errors import TensorError, layer_errors
from model.quality.text import Window

Progress = Callable[[int, int], None]

WORST = 10  # matrices listed
SHARES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]
_LOGITS = 1 << 23  # values of a table of logits at a time


@dataclass(slots=True)
class Comparison:
    """One checkpoint beside the reference. routers: per layer, which share of the experts that the
    reference chose for a token were chosen, averaged over tokens."""

    checkpoint: StreamedCheckpoint
    hidden: list[mx.array]
    divergence: Divergence = field(default_factory=Divergence)
    routers: list[float] = field(default_factory=list)
    errors: list[TensorError] = field(default_factory=list)

    def worst(self) -> list[TensorError]:
        """The matrices with the largest error at work, or by themselves where that is unknown."""
        ranked = sorted(self.errors, key=lambda e: e.output_error or e.weight_error, reverse=True)
        return ranked[:WORST]

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return self.divergence.figures() | {
            "bytes": self.checkpoint.stored_bytes,
            "bits_per_weight": self.checkpoint.bits_per_weight,
            "router_agreement": float(np.mean(self.routers)),
            "router_agreement_by_layer": self.routers,
            "weight_error": _root_mean_square([e.weight_error for e in self.errors]),
            "worst_tensors": [error.to_json() for error in self.worst()],
        }

    def kl_curve(self) -> list[tuple[float, float]]:
        """(share of the places, the divergence they stay within)."""
        return list(zip(SHARES, self.divergence.quantiles(SHARES), strict=True))


def compare(
    reference: StreamedCheckpoint,
    others: Sequence[StreamedCheckpoint],
    windows: Sequence[Window],
    *,
    counted: Sequence[Sequence[bool]] | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Runs them all over the windows. In memory at a time: a layer of the reference or of one of
    the others, and everybody's hidden states.

    counted: of each window, the tokens whose predictions are compared; None is all that have
    something before them. `progress(layers done, layers)`. Raises CheckpointError where one is
    another network, FloatingPointError where an output is not finite.
    """
    for other in others:
        _check_same_network(reference, other)
    layers = reference.config.num_hidden_layers
    exact = reference.embedded(windows)
    compared = [Comparison(other, other.embedded(windows)) for other in others]
    for index in range(layers):
        moments = Moments(reference)
        layer = reference.layer(index)
        outputs = [layer(x, moments.see) for x in exact]
        exact = [x for x, _ in outputs]
        check_finite(exact, f"{reference.name}: layer {index}")
        del layer
        chosen = [experts for _, experts in outputs]
        importance = moments.imatrix().importance()
        for each in compared:
            each.routers.append(_run_layer(each, index, chosen))
            each.errors += layer_errors(
                reference, each.checkpoint, f"model.layers.{index}.", importance
            )
        if progress is not None:
            progress(index + 1, layers)
    if counted is None:
        counted = [[True] * len(window) for window in windows]
    _predictions(reference, exact, compared, windows, counted)
    return compared


def _run_layer(each: Comparison, index: int, chosen: Sequence[Chosen]) -> float:
    """Moves one checkpoint on by a layer; returns how far its router agrees."""
    layer = each.checkpoint.layer(index)
    shares: list[float] = []
    for place, x in enumerate(each.hidden):
        each.hidden[place], found = layer(x)
        shares += agreement(chosen[place], found)
    check_finite(each.hidden, f"{each.checkpoint.name}: layer {index}")
    return float(np.mean(shares))


def agreement(reference: Chosen, found: Chosen) -> list[float]:
    """Experts [T, k] of both -> the share of the reference's that were found, by token."""
    common = (reference[:, :, None] == found[:, None, :]).any(axis=-1)
    return common.mean(axis=-1).tolist()


def _predictions(
    reference: StreamedCheckpoint,
    exact: Sequence[mx.array],
    compared: Sequence[Comparison],
    windows: Sequence[Window],
    counted: Sequence[Sequence[bool]],
) -> None:
    """The output heads, a few places at a time. Two of them are in memory."""
    head = reference.head()
    places = max(1, _LOGITS // reference.config.vocab_size)
    tied = reference.config.tie_word_embeddings
    outside = ["model.embed_tokens."] if tied else ["model.embed_tokens.", "lm_head."]
    moments = Moments(reference)
    if not tied:
        for x in exact:
            moments.see(("lm_head",), head.normed(x[0]), None)
    importance = moments.imatrix().importance()
    for each in compared:
        own = each.checkpoint.head()
        for x, y, window, counts in zip(exact, each.hidden, windows, counted, strict=True):
            before = np.flatnonzero(counts[1:])
            for start in range(0, len(before), places):
                part = before[start : start + places]
                of_reference = log_softmax(np.array(head.logits(x[0, mx.array(part)])))
                of_other = log_softmax(np.array(own.logits(y[0, mx.array(part)])))
                each.divergence.add(of_reference, of_other, np.array(window)[part + 1])
        del own
        for prefix in outside:
            each.errors += layer_errors(reference, each.checkpoint, prefix, importance)


def _check_same_network(reference: StreamedCheckpoint, other: StreamedCheckpoint) -> None:
    mine, theirs = reference.config, other.config
    for key in ("vocab_size", "hidden_size", "num_hidden_layers", "layer_types", "num_experts"):
        expected, found = getattr(mine, key), getattr(theirs, key)
        if expected != found:
            raise CheckpointError(
                f"{other.folder}: {key}: expected {expected}, as {reference.folder} has, found "
                f"{found}"
            )


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
