"""The sampler once more, in numpy and float64, written from its documentation.

Penalties and bias, temperature, top_k, top_p, min_p, then the largest of logit plus Gumbel noise
among the tokens that stay. The noise is that of the counter-based generator behind a seed (Threefry
2x32 with 20 rounds: Salmon et al., 2011), so a seed gives the same tokens here as in the server.
"""

from dataclasses import dataclass, field

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)
MARGIN = 5e-4  # of logits; several times the tolerance for them
CUT_MARGIN = 1e-5  # of probabilities


class NearTieError(ValueError):
    """The choice hangs on a difference that rounding may turn round."""


@dataclass(slots=True)
class SamplerReference:
    """Draws one continuation. `draw` gets logits [V] and returns a token id."""

    prompt: list[int]
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    drawn: list[int] = field(default_factory=list)
    _key: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._key = np.array([self.seed >> 32, self.seed & 0xFFFFFFFF], np.uint32)

    def draw(self, logits: np.ndarray) -> int:
        penalised = self._penalise(logits.astype(np.float64))
        if self.temperature == 0:
            token = int(penalised.argmax())
            self._check(penalised)
        else:
            token = self._draw(penalised / self.temperature)
        self.drawn.append(token)
        return token

    def _penalise(self, logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        for token in set(self.prompt) | set(self.drawn):
            factor = self.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        for token in set(self.drawn):
            count = self.drawn.count(token)
            logits[token] -= self.presence_penalty + self.frequency_penalty * count
        return logits

    def _draw(self, logits: np.ndarray) -> int:
        size = len(logits)
        next_key, key = random_bits(self._key, 4).reshape(2, 2)
        self._key = next_key
        noise = -np.log(-np.log(random_bits(key, size) / np.float64(0xFFFFFFFF)))
        if self.top_p == 1 and self.top_k == 0 and self.min_p == 0:
            self._check(logits + noise)
            return int((logits + noise).argmax())
        order = np.argsort(-logits, kind="stable")
        kept = self._kept(logits[order])
        scores = (logits + noise)[order][:kept]
        self._check(scores)
        return int(order[scores.argmax()])

    def _kept(self, ranked: np.ndarray) -> int:
        """How many of the ranked logits stay: at least one."""
        if self.top_k and ranked[self.top_k - 1] - ranked[self.top_k] < MARGIN:
            raise NearTieError("top_k")
        ranked = ranked[: self.top_k or None]
        probabilities = np.exp(ranked - ranked[0])
        probabilities /= probabilities.sum()
        before = np.cumsum(probabilities) - probabilities
        least = self.min_p * probabilities[0]
        if self.top_p < 1 and np.abs(before - self.top_p).min() < CUT_MARGIN:
            raise NearTieError("top_p")
        if self.min_p > 0 and np.abs(probabilities - least).min() < CUT_MARGIN:
            raise NearTieError("min_p")
        return max(1, int(((before < self.top_p) & (probabilities >= least)).sum()))

    def _check(self, scores: np.ndarray) -> None:
        if len(scores) < 2:
            return
        second, first = np.sort(scores)[-2:]
        if first - second < MARGIN:
            raise NearTieError("the two best")


def random_bits(key: np.ndarray, count: int) -> np.ndarray:
    """`count` (even) words uint32 of the generator at `key` (two words)."""
    half = count // 2
    if count != 2 * half:
        raise ValueError("an even number of words")
    low = np.arange(half, dtype=np.uint32)
    return np.concatenate(_threefry(key, low, low + np.uint32(half)))


def _threefry(key: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    keys = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    with np.errstate(over="ignore"):
        a, b = a + keys[0], b + keys[1]
        for block in range(5):
            for rotation in ROTATIONS[block % 2]:
                a = a + b
                b = (b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))
                b = b ^ a
            a = a + keys[(block + 1) % 3]
            b = b + keys[(block + 2) % 3] + np.uint32(block + 1)
    return a, b
