"""Reference logits from a file, and how far ours are from them.

Knows the layout that `tests.parity.make` writes and `Model.logits`; needs neither torch nor mlx-lm.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from model.loading import load_model
from model.sampling import SamplingParams

CLOSE = 1e-4  # max |difference| between float32 logits
CLOSE_QUANTIZED = 1e-3  # the same, relative to the largest logit, where weights are quantized
DECODED = 64


@dataclass(frozen=True, slots=True)
class Reference:
    """One sequence: its tokens, and logits [len(positions), vocab] at some of its positions."""

    tokens: list[int]
    positions: np.ndarray
    logits: np.ndarray


def read_references(folder: Path, source: str) -> list[Reference]:
    """What `source` ("transformers", "mlx-lm", "mlx-lm.SCHEME") computed for each sequence."""
    with np.load(folder / "references.npz", allow_pickle=False) as content:
        count = sum(name.startswith("tokens.") for name in content.files)
        return [
            Reference(
                tokens=content[f"tokens.{i}"].tolist(),
                positions=content[f"positions.{i}"],
                logits=content[f"{source}.{i}"],
            )
            for i in range(count)
        ]


def odd_chunks(total: int) -> list[int]:
    """Chunk lengths that sum to `total`: single tokens, and both sides of the block length 64."""
    chunks: list[int] = []
    for length in (37, 1, 64, 63, 2, 65, 1, 3, 31, 100, 1000):
        left = total - sum(chunks)
        if left == 0:
            break
        chunks.append(min(length, left))
    return chunks


class Comparison:
    """Our network on one checkpoint folder, held against references."""

    def __init__(self, folder: Path, *, dequantize: bool = True) -> None:
        with _on_cpu():
            self._model = load_model(folder, dequantize=dequantize)

    def difference(
        self, reference: Reference, *, chunks: list[int] | None = None, decode: int = 0
    ) -> float:
        """Largest |our logit - theirs| at the reference's positions."""
        with _on_cpu():
            logits = self._model.logits(reference.tokens, chunks=chunks, decode=decode)
            assert logits.dtype == mx.float32
            ours = np.array(logits)
        assert ours.shape == (len(reference.tokens), reference.logits.shape[1])
        difference = np.abs(ours[reference.positions] - reference.logits)
        return float(difference.max())  # NaN stays NaN, and is not close to anything

    def relative_difference(
        self, reference: Reference, *, chunks: list[int] | None = None, decode: int = 0
    ) -> float:
        """The same over the reference's largest |logit|."""
        largest = float(np.abs(reference.logits).max())
        return self.difference(reference, chunks=chunks, decode=decode) / largest

    def continuation(self, prompt: list[int], sampling: SamplingParams, count: int) -> list[int]:
        """`count` tokens that our compiled decode step draws after `prompt`."""
        with _on_cpu():
            generation = self._model.generation(sampling)
            generation.prefill(prompt[:-1])
            first = generation.step(prompt[-1])
            return [first, *(generation.step() for _ in range(count - 1))]


@contextmanager
def _on_cpu() -> Iterator[None]:
    """The tolerances are those of float32, in which `model` computes on a CPU."""
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    try:
        yield
    finally:
        mx.set_default_device(before)
