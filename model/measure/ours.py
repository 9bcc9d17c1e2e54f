"""mxserve's own engine, measured in this process: `python -m model.measure.ours [FOLDER]`.

Answers the commands of protocol.py: prefill, decode, host_time, bandwidth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from model.generation import Generation
from model.lane_state import LaneState
from model.loading import Model, load_model
from model.measure.bandwidth import measured_bandwidth
from model.measure.protocol import answer_commands
from model.mtp_policy import MtpDepth
from model.prompt import encode_chat
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


ASKED = (
    "What is the capital of France?",
    "Count from 3 to 40.",
    "What is 17 + 25? Think carefully.",
    "Repeat: red green blue.",
    "Give the capital of Spain as JSON.",
    "Who are you?",
)


def dialogues(model: Model, depth: int, tokens: int, temperature: float) -> dict[str, Any]:
    """Answers to a few questions with `depth` tokens guessed ahead, 0 for none, `tokens` each at
    most: tokens, the seconds they took, steps of the network, guesses and how many were right;
    {"skipped": why} without a head.
    """
    mtp = model.steps.mtp
    if mtp is None:
        return {"skipped": "the checkpoint has no MTP head"}
    policy, before = mtp.policy, mtp.policy.choice
    policy.choice = cast(MtpDepth, depth)
    found = {"tokens": 0, "steps": 0, "seconds": 0.0, "drafted": 0, "accepted": 0}
    try:
        for number, text in enumerate(ASKED):
            prompt = encode_chat(
                model.tokenizer,
                model.template,
                [{"role": "user", "content": text}],
                tools=None,
                enable_thinking=True,
                preserve_thinking=True,
            ).tokens
            generation = model.generation(SamplingParams(temperature=temperature, seed=number))
            generation.prefill(prompt[:-1])
            generation.step(prompt[-1])
            for _ in range(WARM_STEPS):
                generation.step()
            row = generation.row
            row.outcomes.clear()
            begin, count = time.perf_counter(), 0
            while count < tokens and row.tokens[-1] not in model.config.generation.eos_token_ids:
                generation.step()
                count += 1
            found["seconds"] += time.perf_counter() - begin
            found["tokens"] += count
            found["steps"] += len(row.outcomes) if depth else count
            found["drafted"] += sum(guessed for guessed, _ in row.outcomes)
            found["accepted"] += sum(right for _, right in row.outcomes)
            generation.settle()
    finally:
        policy.choice = before
    return found


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
            "dialogues": lambda **given: dialogues(model, **given),
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
