"""One running sequence on a random checkpoint: chunked equals whole, restored equals cold."""

from functools import cache

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.generation import Generation
from model.loading import DEMO_FOLDER, Model, load_model
from model.sampling import SamplingParams
from model.state import TAIL, bucket

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0, top_p=0.95, top_k=20, seed=42)


@cache
def demo() -> Model:
    return load_model(DEMO_FOLDER)


def tokens_of(seed: int, count: int) -> list[int]:
    """Ordinary text-like ids, none of them a control token."""
    return [300 + (seed * 7919 + i * i * 31 + i * 17) % 500 for i in range(count)]


def run(generation: Generation, last: int, count: int) -> list[int]:
    out = [generation.step(last)]
    while len(out) < count:
        out.append(generation.step())
    return out


def cold(tokens: list[int], count: int, sampling: SamplingParams = GREEDY) -> list[int]:
    generation = demo().generation(sampling)
    generation.prefill(tokens[:-1])
    return run(generation, tokens[-1], count)


def same_logits(a: mx.array, b: mx.array) -> bool:
    return float(mx.abs(a - b).max()) < 1e-4


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(2, 400),
    chunks=st.lists(st.integers(1, 130), min_size=1, max_size=6),
    decode=st.integers(0, 5),
)
def test_chunked_equals_whole(seed: int, count: int, chunks: list[int], decode: int) -> None:
    tokens = tokens_of(seed, count)
    whole = demo().logits(tokens)
    assert same_logits(whole, demo().logits(tokens, chunks=chunks, decode=min(decode, count)))


def test_decode_steps_cross_buckets_and_merge_the_tail() -> None:
    tokens = tokens_of(3, 2 * TAIL + 60)
    decoded = demo().logits(tokens, chunks=[20], decode=len(tokens) - 20)
    assert same_logits(demo().logits(tokens), decoded)


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(1, 120), min_size=1, max_size=4),
    rest=st.integers(1, 80),
)
def test_restored_equals_cold(seed: int, cuts: list[int], rest: int) -> None:
    tokens = tokens_of(seed, sum(cuts) + rest)
    first = demo().generation(GREEDY)
    spans, start = [], 0
    for cut in cuts:
        first.prefill(tokens[start : start + cut])
        spans.append(first.span(start, start + cut))
        start += cut
    snapshot = first.recurrent()
    run(first, tokens[start], 5)  # what goes on with the original must not show in the snapshot
    restored = demo().generation(GREEDY)
    restored.restore(spans, snapshot, tokens[:start])
    restored.prefill(tokens[start:-1])
    assert run(restored, tokens[-1], 8) == cold(tokens, 8)
    assert snapshot.position == start
    assert sum(span.length for span in spans) == start


def test_spans_and_snapshots_account_their_bytes() -> None:
    config = demo().config
    generation = demo().generation(GREEDY)
    generation.prefill(tokens_of(1, 10))
    attention = config.layer_types.count("full_attention")
    per_token = attention * 2 * config.num_key_value_heads * config.head_dim * 4
    assert generation.span(2, 9).nbytes == 7 * per_token
    matrices = config.linear_num_value_heads * config.linear_value_head_dim
    matrices *= config.linear_key_head_dim * 4 * config.layer_types.count("linear_attention")
    assert generation.recurrent().nbytes > matrices


def test_a_state_after_the_answer_goes_on_as_if_prefilled() -> None:
    prompt, more = tokens_of(5, 40), tokens_of(6, 9)
    first = demo().generation(GREEDY)
    first.prefill(prompt[:-1])
    answer = run(first, prompt[-1], 12)
    first.settle()
    assert first.tokens == prompt + answer
    restored = demo().generation(GREEDY)
    restored.restore([first.span(0, 52)], first.recurrent(), first.tokens)
    restored.prefill(more[:-1])
    assert run(restored, more[-1], 6) == cold([*prompt, *answer, *more], 6)


def test_forced_tokens_continue_as_if_they_had_been_sampled() -> None:
    prompt, forced = tokens_of(8, 30), tokens_of(9, 7)
    generation = demo().generation(GREEDY)
    generation.prefill(prompt[:-1])
    answer = run(generation, prompt[-1], 4)
    generation.force(forced)
    continued = [generation.step() for _ in range(6)]
    assert continued == cold([*prompt, *answer, *forced], 6)
    assert generation.tokens == [*prompt, *answer, *forced, *continued]


def test_a_fork_and_its_origin_go_on_independently() -> None:
    prompt = tokens_of(15, 50)
    one = demo().generation(GREEDY)
    one.prefill(prompt[:-1])
    two, three = one.fork(GREEDY), one.fork(SAMPLED)
    assert run(two, prompt[-1], 12) == cold(prompt, 12)
    assert run(three, prompt[-1], 12) == cold(prompt, 12, SAMPLED)
    other = [*prompt[:-1], *tokens_of(16, 8)]
    one.prefill(other[len(prompt) - 1 : -1])
    assert run(one, other[-1], 12) == cold(other, 12)


def test_a_state_that_is_not_finite_is_never_kept() -> None:
    generation = demo().generation(GREEDY)
    generation.prefill(tokens_of(17, 10))
    layers = generation.row.state.layers
    layers.recurrent[0] = layers.recurrent[0] * mx.nan
    layers.kv[0].body_keys = layers.kv[0].body_keys * mx.inf
    with pytest.raises(FloatingPointError):
        generation.recurrent()
    with pytest.raises(FloatingPointError):
        generation.span(0, 10)


def test_without_a_seed_draws_differ() -> None:
    sampling = SamplingParams(temperature=2.0)
    assert len({tuple(cold(tokens_of(4, 20), 15, sampling)) for _ in range(3)}) > 1


def test_forced_tokens_count_for_penalties() -> None:
    sampling = SamplingParams(temperature=0.0, presence_penalty=2.0)
    generation = demo().generation(sampling)
    generation.prefill(tokens_of(8, 30)[:-1])
    generation.step(tokens_of(8, 30)[-1])
    generation.force([700, 701, 702])
    generation.step()
    generation.settle()
    sampler = generation.row.sampler
    assert sampler is not None
    assert sampler.counts is not None
    assert [int(sampler.counts[0, t]) for t in (700, 701, 702)] == [1, 1, 1]
    assert int(sampler.counts.sum()) == len(generation.tokens) - 30


def test_resume_takes_the_next_turn_in_place() -> None:
    prompt, more = tokens_of(11, 20), tokens_of(12, 5)
    generation = demo().generation(SAMPLED)
    generation.prefill(prompt[:-1])
    answer = run(generation, prompt[-1], 5)
    generation.resume(GREEDY)
    generation.prefill(more[:-1])
    assert run(generation, more[-1], 5) == cold([*prompt, *answer, *more], 5)


def test_a_seed_repeats_itself_and_interleaving_changes_nothing() -> None:
    prompt = tokens_of(2, 25)
    alone = cold(prompt, 20, SAMPLED)
    one, two = demo().generation(SAMPLED), demo().generation(SAMPLED)
    one.prefill(prompt[:10])
    two.prefill(prompt[:-1])
    one.prefill(prompt[10:-1])
    pairs = [(one.step(prompt[-1]), two.step(prompt[-1]))]
    pairs += [(one.step(), two.step()) for _ in range(19)]
    assert [a for a, _ in pairs] == alone
    assert [b for _, b in pairs] == alone


def test_no_step_retraces_inside_a_bucket() -> None:
    steps = load_model(DEMO_FOLDER).steps
    traces: list[int] = []
    step = steps.network.step

    def counted(*args: object) -> object:
        traces.append(1)
        return step(*args)  # type: ignore[arg-type]

    steps.network.step = counted  # type: ignore[method-assign,assignment]
    generation = Generation(steps, GREEDY)
    generation.prefill(tokens_of(1, 300))
    generation.step(5)
    before = len(traces)
    for _ in range(100):
        generation.step()
    assert before > 0
    if steps.compiled:
        assert len(traces) == before


def test_wrong_uses_are_refused() -> None:
    generation = demo().generation(GREEDY)
    with pytest.raises(ValueError, match="last token"):
        generation.step()
    generation.prefill([301, 302])
    with pytest.raises(ValueError, match="span"):
        generation.span(0, 3)
    with pytest.raises(ValueError, match="restore"):
        generation.restore([generation.span(0, 2)], generation.recurrent(), [301, 302])
    with pytest.raises(ValueError, match="snapshot at 2"):
        demo().generation(GREEDY).restore([], generation.recurrent(), [1])


@given(length=st.integers(0, 300_000))
def test_buckets_hold_their_length_without_waste(length: int) -> None:
    capacity = bucket(length, 262_144)
    assert capacity >= length
    assert capacity <= max(256, length * 3 // 2 + 1)
    assert bucket(capacity, 262_144) == capacity
