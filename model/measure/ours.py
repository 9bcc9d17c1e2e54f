"""mxserve's own engine, measured in this process: `python -m model.measure.ours [FOLDER]`.

Answers the commands of protocol.py: prefill, decode, host_time, bandwidth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

from model.generation import Generation
from model.lane_state import LaneState
from model.loading import Model, load_model
from model.measure.bandwidth import measured_bandwidth
from model.measure.protocol import answer_commands
from model.sampler import Variant
from model.sampling import SamplingParams
from model.state import KVSpan

GREEDY = SamplingParams(temperature=0.0)
CHUNK = 2048  # of a prompt when nobody decodes
WARM_STEPS = 4
SEED_TOKENS = 8  # really fed before a context that is made up
SHARE_OF_MEMORY = 0.5  # of what is free, for a made-up context: it exists twice for a moment


def prefill(model: Model, tokens: int, seed: int) -> dict[str, Any]:
    """Seconds from nothing to the first token after a random prompt of `tokens`."""
    prompt = random_tokens(model.config.vocab_size, tokens, seed)
    generation = model.generation(GREEDY)
    mx.reset_peak_memory()
    begin = time.perf_counter()
    for start in range(0, tokens - 1, CHUNK):
        generation.prefill(prompt[start : min(start + CHUNK, tokens - 1)])
    generation.step(prompt[-1])
    seconds = time.perf_counter() - begin
    generation.settle()
    return {"seconds": seconds, "peak_bytes": mx.get_peak_memory()}


def decode(model: Model, context: int, tokens: int, free_bytes: int) -> dict[str, Any]:
    """Seconds for `tokens` tokens, one after the other, after a context of random keys and values.

    Says {"skipped": why} where it is too long for `free_bytes`.
    """
    needed = 2 * context * model.bytes_per_token
    if needed > SHARE_OF_MEMORY * free_bytes:
        return {"skipped": f"needs {needed >> 20} MiB, {free_bytes >> 20} MiB are free"}
    generation = after_context(model, context)
    mx.reset_peak_memory()
    generation.step(0)
    for _ in range(WARM_STEPS):
        generation.step()
    begin = time.perf_counter()
    for _ in range(tokens):
        generation.step()
    seconds = time.perf_counter() - begin
    generation.settle()
    return {"seconds": seconds, "peak_bytes": mx.get_peak_memory()}


def host_time(model: Model, context: int, count: int) -> dict[str, Any]:
    """Microseconds that the host needs to call a step, its result not yet computed, each of `count`
    times."""
    state = after_context(model, context).row.state
    variant = Variant.of(GREEDY)
    token, generated = mx.array([0], mx.int32), mx.array([1], mx.int32)
    mx.eval(token, generated)
    found = []
    for _ in range(WARM_STEPS + count):
        lane = LaneState([state])
        begin = time.perf_counter()
        model.steps.decode(variant, token, lane, {}, {}, generated)
        found.append((time.perf_counter() - begin) * 1e6)
    return {"microseconds": found[WARM_STEPS:]}


def after_context(model: Model, context: int) -> Generation:
    """A generation whose last tokens were really fed, before them made-up keys and values."""
    seed = model.generation(GREEDY)
    seed.prefill([0] * min(SEED_TOKENS, context))
    recurrent = seed.recurrent()
    width = (model.config.num_key_value_heads, context, model.config.head_dim)
    dtype = model.network.dtype
    layers = model.config.layer_types.count("full_attention")
    keys, values = (_random_layers(layers, (1, *width), dtype) for _ in range(2))
    generation = model.generation(GREEDY)
    snapshot = type(recurrent)(recurrent.conv_tails, recurrent.recurrent, context)
    generation.restore([KVSpan(keys, values, context)], snapshot, [0] * context)
    generation.settle()
    return generation


def _random_layers(layers: int, shape: Sequence[int], dtype: mx.Dtype) -> tuple[mx.array, ...]:
    found = []
    for _ in range(layers):
        found.append(mx.random.normal(shape, dtype=dtype))
        mx.eval(found[-1])
    return tuple(found)


def random_tokens(vocabulary: int, count: int, seed: int) -> list[int]:
    """The same for the same seed."""
    ids = mx.random.randint(0, vocabulary, (count,), key=mx.random.key(seed))
    return ids.tolist()  # type: ignore[return-value]


def main(argv: Sequence[str]) -> None:
    model = load_model(Path(argv[0]) if argv else None)
    answer_commands(
        {
            "prefill": lambda **given: prefill(model, **given),
            "decode": lambda **given: decode(model, **given),
            "host_time": lambda **given: host_time(model, **given),
            "bandwidth": lambda: {"bytes_per_second": measured_bandwidth()},
        },
        {
            "device": model.device.kind,
            "device_name": model.device.name,
            "blas": model.device.blas,
            "dequantized": model.dequantized,
            "compiled": model.steps.compiled,
            "mlx": metadata.version("mlx"),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
