"""No decode step copies the context's keys and values, however many steps are in flight."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from model.loading import Model, load_model
from model.measure import levers
from model.measure.ours import after_context
from model.state import TAIL

STEPS = 6
LENGTHS = (2048, 8192)


@pytest.fixture(scope="module")
def demo() -> Model:
    return load_model()


def taken(model: Model, context: int) -> tuple[int, int]:
    """Bytes that queued steps after `context` tokens take beside what was there before, and the
    bytes of one layer's keys there."""
    generation = after_context(model, context)
    generation.step(0)
    generation.step()
    generation.settle()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in range(STEPS):  # each is queued before the last one's token is read
        generation.step()
    peak = mx.get_peak_memory() - before
    generation.settle()
    keys = generation.row.state.layers.kv[0].body_keys
    assert keys.shape[2] >= context
    return peak, keys.nbytes


def test_steps_take_little_beside_the_keys(demo: Model) -> None:
    """Scores take 4 bytes a token and head, a few times over; a copy of one layer's keys alone
    would take 4 bytes for each of a head's values."""
    (short, _), (long, keys) = (taken(demo, length) for length in LENGTHS)
    assert long - short < keys / 2


@pytest.mark.parametrize("two_parts", [True, False])
def test_a_step_over_one_buffer_would_copy_it(
    two_parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same attention in either form: what the test above would see if a step did copy."""
    context = 8192
    keys = levers.KV_HEADS * context * levers.HEAD * 4
    tails = 2 * 2 * levers.KV_HEADS * TAIL * levers.HEAD * 4
    real, peaks = levers.decode_attention, []

    def attention(*given: Any) -> mx.array:
        peaks.append(mx.get_peak_memory())
        return real(*given)

    monkeypatch.setattr(levers, "decode_attention", attention)
    mx.reset_peak_memory()
    levers._kv_ms(context, mx.float32, two_parts=two_parts)
    grown = mx.get_peak_memory() - peaks[0]
    assert grown < keys / 2 + tails if two_parts else grown > 1.5 * keys
