"""How far one model's predictions are from another's: Kullback-Leibler, top-1, perplexity.

Everything from float32 logits, in float64; a few rows at a time, so that no table of a whole text
over the vocabulary ever exists. Natural logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[np.floating]) -> Doubles:
    """[T, V] -> log probabilities [T, V]."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def divergences(reference: Doubles, other: Doubles) -> Doubles:
    """Log probabilities [T, V] -> KL(reference || other) [T], never below zero."""
    terms = np.exp(reference)
    terms *= reference - other
    return np.maximum(terms.sum(axis=-1), 0)


@dataclass(slots=True)
class Divergence:
    """What was gathered of one model, place by place. losses: -log p of the token that follows."""

    kl: list[Doubles] = field(default_factory=list)
    same_top: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    losses: list[Doubles] = field(default_factory=list)
    reference_losses: list[Doubles] = field(default_factory=list)

    def add(self, reference: Doubles, other: Doubles, following: npt.NDArray[np.integer]) -> None:
        """Log probabilities [T, V] of both, and the token [T] that follows each place."""
        self.kl.append(divergences(reference, other))
        self.same_top.append(reference.argmax(axis=-1) == other.argmax(axis=-1))
        places = np.arange(len(following))
        self.losses.append(-other[places, following])
        self.reference_losses.append(-reference[places, following])

    def figures(self) -> dict[str, float]:
        """The figures of all places, by name."""
        kl = np.concatenate(self.kl)
        median, high = np.quantile(kl, [0.5, 0.99])
        return {
            "kl_mean": float(kl.mean()),
            "kl_p50": float(median),
            "kl_p99": float(high),
            "kl_max": float(kl.max()),
            "top1": float(np.concatenate(self.same_top).mean()),
            "perplexity": perplexity(self.losses),
            "reference_perplexity": perplexity(self.reference_losses),
        }

    def quantiles(self, shares: list[float]) -> list[float]:
        """The divergence that a share of the places stays within."""
        return np.quantile(np.concatenate(self.kl), shares).tolist()


def perplexity(losses: list[Doubles]) -> float:
    """exp of the mean loss."""
    return float(np.exp(np.concatenate(losses).mean()))
