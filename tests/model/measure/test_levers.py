"""What is measured with a lever and without it is the same work."""

import mlx.core as mx
import numpy as np
import pytest

from model.experts import SORT_FROM, Experts
from model.geometry import named
from model.loading import load_model
from model.measure import levers
from model.measure.levers import _host_step, _kv_ms, _prompt_ms, _tokens_sorted_by_expert


@pytest.fixture(scope="module")
def demo():
    return load_model()


def test_queued_steps_attend_to_the_same_keys_in_either_form(monkeypatch):
    attended = {}

    def attention(q, body_keys, body_values, keys, values, lengths, filled, scale, gate):
        count = int(lengths[0]) + int(filled)
        attended.setdefault(body_keys.shape[2] > 0, []).append(count)
        return real(q, body_keys, body_values, keys, values, lengths, filled, scale, gate)

    real = levers.decode_attention
    monkeypatch.setattr(levers, "decode_attention", attention)
    assert all(_kv_ms(40, mx.float32, two_parts=form) > 0 for form in (True, False))
    assert attended[True] == attended[False]
    assert attended[True][0] == 41


def test_a_prompt_gives_the_same_hidden_states_sorted_or_not(demo, monkeypatch):
    monkeypatch.setattr(levers, "CHUNK", 40)
    seen = []
    real = demo.network.logits
    monkeypatch.setattr(demo.network, "logits", lambda hidden: seen.append(hidden) or real(hidden))
    gathered = []
    one_by_one = Experts._gathered
    monkeypatch.setattr(
        Experts, "_gathered", lambda *given: gathered.append(1) or one_by_one(*given)
    )
    _prompt_ms(demo)
    assert not gathered
    _prompt_ms(demo, by_expert=False)
    assert len(gathered) == demo.config.num_hidden_layers
    _prompt_ms(demo, all_logits=True)
    by_expert, alone, whole = seen
    assert by_expert.shape[1] == alone.shape[1] == 1
    assert whole.shape[1] == 40
    assert np.allclose(np.array(by_expert), np.array(alone), atol=1e-4)
    assert np.allclose(np.array(by_expert), np.array(whole[:, -1:]), atol=1e-4)
    with _tokens_sorted_by_expert(False):
        pass
    assert levers.experts.SORT_FROM == SORT_FROM


def test_a_step_can_be_called_again_however_it_was_traced():
    tiny = named("tiny")
    token = mx.array([0], mx.int32)
    for kernels in (True, False, None):
        step = _host_step(tiny, on_gpu=kernels is not None, kernels=kernels)
        sampled, _, _ = step(token)
        assert sampled.shape == (1,)
