"""What a caller may ask of the sampler: plain numbers, no arrays, no MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one sequence.

    `temperature` 0 means greedy. `top_k` 0, `top_p` 1 and `min_p` 0 switch their filter off; they
    apply in that order, after penalties and temperature. `presence_penalty` and `frequency_penalty`
    (subtracted, -2 to 2) count generated tokens; `repetition_penalty` (1 = off; divides positive
    and multiplies negative logits) counts the prompt too. `logit_bias` maps token ids to a number
    added to their logits.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def filtered(self) -> bool:
        """Whether the sampled step has to rank the vocabulary."""
        return not self.greedy and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)

    @property
    def penalised(self) -> bool:
        """Whether logits depend on what was generated before, or are biased."""
        return bool(
            self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1
            or self.logit_bias
        )
