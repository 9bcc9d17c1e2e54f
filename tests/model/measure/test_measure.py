"""What the measurements do, not how long it takes."""

import io
import json
import sys

import mlx.core as mx
import pytest

from model.geometry import named, toy
from model.loading import load_model
from model.measure import ours
from model.measure.bandwidth import measured_bandwidth
from model.measure.host import host_times
from model.measure.protocol import answer_commands

PLENTY = 1 << 40


@pytest.fixture(scope="module")
def demo():
    return load_model()


def test_a_made_up_context_is_one_that_decoding_goes_on_from(demo):
    generation = ours.after_context(demo, 300)
    assert generation.position == 300
    span = generation.span(0, 300)  # raises where it is not finite
    assert all(float(mx.abs(keys).max()) > 1 for keys in span.keys)
    vocabulary = demo.config.vocab_size
    assert all(0 <= generation.step(*first) < vocabulary for first in ((0,), (), ()))
    assert generation.position == 304  # what was returned has been fed


def test_a_decode_says_its_time_and_peak_memory(demo):
    answer = ours.decode(demo, 64, 3, PLENTY)
    assert answer["seconds"] > 0
    assert answer["peak_bytes"] >= mx.get_active_memory() * 0.5
    assert answer.keys() == {"seconds", "peak_bytes"}


def test_a_context_that_memory_does_not_hold_is_not_tried(demo, monkeypatch):
    monkeypatch.setattr(ours, "after_context", lambda *_: pytest.fail("it was tried"))
    needed = 2 * 1000 * demo.bytes_per_token
    answer = ours.decode(demo, 1000, 3, int(needed / ours.SHARE_OF_MEMORY) - 1)
    assert "MiB" in answer["skipped"]


def test_a_prefill_feeds_the_whole_prompt_in_chunks(demo, monkeypatch):
    chunks = []
    real = demo.steps.prefill

    def prefill(state, tokens):
        chunks.append(len(tokens))
        return real(state, tokens)

    monkeypatch.setattr(demo.steps, "prefill", prefill)
    monkeypatch.setattr(ours, "CHUNK", 40)
    assert ours.prefill(demo, 100, 7)["seconds"] > 0
    assert chunks == [40, 40, 19]  # the last token is the first decode step's


def test_prompts_are_random_and_the_same_for_the_same_seed():
    first, again, other = (ours.random_tokens(1000, 50, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > 20
    assert all(0 <= token < 1000 for token in first)


def test_the_hosts_time_is_told_for_each_call(demo):
    answer = ours.host_time(demo, 64, 5)
    assert len(answer["microseconds"]) == 5
    assert all(time > 0 for time in answer["microseconds"])


@pytest.mark.parametrize("as_metal", [False, True])
def test_a_toy_is_called_and_never_computed(as_metal):
    before = mx.get_active_memory()
    times = host_times(toy(named("tiny")), 4, as_metal=as_metal, on_gpu=False)
    assert len(times) == 4
    assert min(times) > 0
    assert mx.get_active_memory() - before < 16 << 20


def test_a_toy_has_the_layers_of_what_it_stands_for_and_little_width():
    real = named("qwen3.6-35b-a3b")
    small = toy(real)
    assert small.config.layer_types == real.config.layer_types
    assert small.config.hidden_size < real.config.hidden_size / 8


def test_bandwidth_is_bytes_per_second(monkeypatch):
    seconds = iter([0.5, 0.25, 1.0])  # a product, a sum, a copy
    monkeypatch.setattr("model.measure.bandwidth._median_seconds", lambda _: next(seconds))
    assert measured_bandwidth(1 << 20) == (1 << 20) / 0.25
    monkeypatch.undo()
    assert measured_bandwidth(1 << 20) > 0


def test_commands_are_answered_one_by_one(monkeypatch):
    lines = [
        {"do": "double", "of": 4},
        {"do": "fail"},
        {"do": "nothing"},
        {"do": "double", "of": 1},
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(map(json.dumps, lines))))
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())

    def double(of: int) -> dict[str, int]:
        print("this must not stand among the answers")
        return {"value": 2 * of}

    def fail() -> dict[str, int]:
        raise ValueError("why")

    answer_commands({"double": double, "fail": fail}, {"name": "x"})
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"name": "x"},
        {"value": 8},
        {"error": "ValueError: why"},
        {"error": "KeyError: 'nothing'"},
        {"value": 2},
    ]
