"""No decode step copies the context's keys and values, however many steps are in flight."""

from __future__ import annotations

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


def test_a_step_over_one_buffer_would_copy_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attention in either form: what the test above would see if a step did copy."""
    context = 8192
    keys = levers.KV_HEADS * context * levers.HEAD * 4
    grown = {}
    for two_parts in (True, False):
        peaks = []

        def attention(*given: mx.array, peaks: list[int] = peaks, **named: mx.array) -> mx.array:
            peaks.append(mx.get_peak_memory())
            return real(*given, **named)

        real = levers.decode_attention
        with monkeypatch.context() as patch:
            patch.setattr(levers, "decode_attention", attention)
            mx.reset_peak_memory()
            levers._kv_ms(context, mx.float32, two_parts=two_parts)
        grown[two_parts] = mx.get_peak_memory() - peaks[0]
    tails = 2 * 2 * levers.KV_HEADS * TAIL * levers.HEAD * 4
    assert grown[True] < keys / 2 + tails
    assert grown[False] > 1.5 * keys
