"""Second moments of every matrix's inputs over a text, gathered layer by layer.

They are what an importance matrix holds, and what turns an error of weights into one of outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from model.convert.imatrix import Entry, Imatrix
from model.convert.imatrix_names import inputs_of
from model.quality.streaming import StreamedCheckpoint, StreamedHead
from model.quality.text import Window

Progress = Callable[[int, int], None]


class Moments:
    """Sums of squares by module, as they come."""

    def __init__(self, checkpoint: StreamedCheckpoint) -> None:
        self._shapes = inputs_of(checkpoint.config)
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._counts: dict[str, npt.NDArray[np.float64]] = {}

    def see(self, modules: tuple[str, ...], x: mx.array, expert: int | None) -> None:
        """x [tokens, in] multiplied `modules`, of `expert` where they are routed."""
        squares = np.array((x * x).sum(axis=0), np.float64)
        for module in modules:
            matrices, inputs = self._shapes[module]
            sums = self._sums.setdefault(module, np.zeros((matrices, inputs)))
            counts = self._counts.setdefault(module, np.zeros(matrices))
            sums[expert or 0] += squares
            counts[expert or 0] += x.shape[0]

    def imatrix(self, datasets: Iterable[str] = (), windows: Sequence[Window] = ()) -> Imatrix:
        """What was seen so far."""
        entries = {
            module: Entry(
                self._sums[module].astype(np.float32), self._counts[module].astype(np.float32)
            )
            for module in self._shapes
            if module in self._sums
        }
        longest = max(map(len, windows), default=0)
        return Imatrix(entries, tuple(datasets), len(windows), longest)


def make_imatrix(
    checkpoint: StreamedCheckpoint,
    windows: Sequence[Window],
    *,
    datasets: Iterable[str] = (),
    progress: Progress | None = None,
) -> Imatrix:
    """Runs the network over the windows and gathers the inputs of all its matrices.

    `progress(layers done, layers)`. Raises FloatingPointError where a layer's output is not finite.
    """
    moments = Moments(checkpoint)
    hidden = checkpoint.embedded(windows)
    layers = checkpoint.config.num_hidden_layers
    for index in range(layers):
        layer = checkpoint.layer(index)
        hidden = [layer(x, moments.see)[0] for x in hidden]
        check_finite(hidden, f"{checkpoint.name}: layer {index}")
        if progress is not None:
            progress(index + 1, layers)
    if not checkpoint.config.tie_word_embeddings:
        head: StreamedHead = checkpoint.head()
        for x in hidden:
            moments.see(("lm_head",), head.normed(x[0]), None)
    return moments.imatrix(datasets, windows)


def check_finite(hidden: Sequence[mx.array], where: str) -> None:
    """Raises FloatingPointError unless all of the hidden states are finite."""
    if not all(mx.isfinite(x).all().item() for x in hidden):
        raise FloatingPointError(f"{where}: its output is not finite")
