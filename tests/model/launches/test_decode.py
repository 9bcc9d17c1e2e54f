"""The decode step's launches: counted from few layers, against the step with all of them."""

from collections import Counter

import mlx.core as mx
import pytest

from model.geometry import named, of_text
from model.launches.decode import (
    ATTENTION,
    DELTA,
    Case,
    count_step,
    count_whole_step,
    record_step,
)
from model.launches.fusion import fused
from model.random_values import GEOMETRIES
from model.sampling import SamplingParams


@pytest.fixture(scope="module")
def tiny():
    return named("tiny")


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("context", [0, 300])
def test_what_a_layer_adds_stands_for_all_of_its_kind(tiny, context, kernels):
    case = Case(kernels=kernels, context=context)
    few = count_step(tiny, case)
    assert few == count_whole_step(tiny, case)
    assert few.total() > 8 * 8


def test_more_layers_launch_more_and_the_head_does_not():
    text = GEOMETRIES["tiny"] | {"num_hidden_layers": 16}
    eight, sixteen = count_step(named("tiny")), count_step(of_text("deep", text))
    more = {key: sixteen[key] - eight[key] for key in sixteen.keys() | eight.keys()}
    assert min(more.values()) >= 0
    parts = Counter()
    for (part, _), count in more.items():
        parts[part] += count
    for part in ("DeltaNet mixers", "attention mixers", "experts"):
        of_eight = sum(n for (name, _), n in eight.items() if name == part)
        assert 0 < parts[part] <= of_eight <= parts[part] + 2  # some work is done once a step
    assert parts["head"] == parts["sampler"] == 0


def test_a_filtered_draw_launches_more_than_a_greedy_one(tiny):
    drawn = Case(sampling=SamplingParams(temperature=1.0, top_k=20, top_p=0.9))
    assert count_step(tiny, drawn).total() > count_step(tiny).total()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=1.0, top_k=20, top_p=0.95),
        SamplingParams(temperature=0.7, top_k=20, top_p=0.8),
    ],
)
def test_a_token_of_the_real_model_takes_at_most_400(sampling):
    """With every kernel, and the checkpoint's own advice of how to sample."""
    case = Case(kernels=True, sampling=sampling)
    assert count_step(named("qwen3.6-35b-a3b"), case).total() <= 400


@pytest.mark.parametrize("guesses", [1, 2, 3])
def test_attention_with_guesses_launches_little_more_than_without(guesses):
    """Of a product of a few rows mlx may sum parts, a launch more; the head's own layer takes 4
    launches or 5, each time it guesses."""
    geometry = named("qwen3.6-35b-a3b")
    counts = [count_step(geometry, Case(kernels=True, guesses=each)) for each in (0, guesses)]
    one, several = (sum(n for (part, _), n in c.items() if part.startswith("att")) for c in counts)
    layers = geometry.config.layer_types.count(ATTENTION)
    assert several <= one + layers + 5 * guesses
    regions = Counter({name: n for (_, name), n in counts[1].items() if "_several" in name})
    assert regions["kernel qk_norm_rope_several"] == layers + guesses
    assert regions["kernel decode_attention_several_split"] == layers
    assert regions["kernel decode_attention_several"] == guesses


@pytest.mark.parametrize("guesses", [1, 2, 3])
def test_delta_net_with_guesses_launches_a_kernel_a_layer(guesses):
    """However many tokens; which state counts is picked in it. Sums of products as above."""
    geometry = named("qwen3.6-35b-a3b")
    counts = [count_step(geometry, Case(kernels=True, guesses=each)) for each in (0, guesses)]
    one, several = (Counter({name: n for (_, name), n in c.items()}) for c in counts)
    layers = geometry.config.layer_types.count(DELTA)
    assert one["kernel delta_step_computed"] == several["kernel delta_step_several_computed"]
    assert several["kernel delta_step_several_computed"] == layers
    assert several["kernel delta_step_computed"] == 0
    mixers = [sum(n for (part, _), n in c.items() if part == "DeltaNet mixers") for c in counts]
    assert mixers[0] <= mixers[1] <= mixers[0] + layers


def test_a_step_with_a_guess_launches_little_more_than_one_without():
    geometry = named("qwen3.6-35b-a3b")
    plain, guessing = (
        count_step(geometry, Case(kernels=True, guesses=guesses)).total() for guesses in (0, 1)
    )
    assert guessing <= plain + 85


def test_launches_do_not_depend_on_the_widths_but_where_a_kernel_changes():
    """The real sizes and the tiny ones, layer for layer."""
    sizes = {"num_hidden_layers": 4}
    small = count_step(of_text("small", GEOMETRIES["tiny"] | sizes))
    real = count_step(of_text("real", GEOMETRIES["full"] | sizes))
    assert small.keys() == real.keys()
    assert abs(small.total() - real.total()) < 0.05 * real.total()


def test_nothing_is_computed_or_held(tiny):
    before = mx.get_active_memory()
    count_step(named("qwen3.6-35b-a3b"), Case(context=131_072))
    assert mx.get_active_memory() - before < 64 << 20


def test_every_node_of_the_step_is_known_and_reads_what_was_made_before(tiny):
    graph = fused(record_step(tiny, [DELTA, ATTENTION], Case(context=300)))
    made = {name for node in graph.nodes for name in node.outputs}
    seen: set[str] = set()
    for node in graph.nodes:
        assert not [n for n in node.inputs if n in made and n not in seen]
        seen.update(node.outputs)
    assert set(graph.outputs) & made
