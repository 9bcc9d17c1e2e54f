"""What single decisions are worth, measured on this device: each with it and without it.

Some can only be counted (model/launches); these are the ones that a CPU feels too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import mlx.core as mx

from model import experts
from model.geometry import Geometry
from model.kernels import Kernels
from model.kernels.decode_attention import decode_attention
from model.launches.blank_step import BlankStep
from model.launches.decode import CONTEXT, GREEDY, every_kernel
from model.launches.stand_ins import StandIns
from model.loading import Model
from model.measure.ours import CHUNK, random_tokens
from model.state import TAIL, SequenceState

HOST_CALLS, WARM_CALLS = 20, 3
KV_STEPS = 6
HEADS, KV_HEADS, HEAD = 16, 2, 256  # of the real model's attention


@dataclass(frozen=True, slots=True)
class Lever:
    """measure(True) with it, measure(False) without it: a time in `unit`, the less the better."""

    name: str
    unit: str
    measure: Callable[[bool], float]


def levers(model: Model, toy: Geometry, context: int) -> list[Lever]:
    """Of a step's call: on `toy`; of a prompt: on `model`; of keys and values: at `context` tokens
    and the real model's sizes, one layer."""
    on_gpu = model.on_gpu
    kernels = {each: _host_step(toy, on_gpu=True, kernels=each) for each in (True, False)}
    compiled = {each: _host_step(toy, on_gpu=on_gpu) for each in (True, False)}
    compiled[False].steps.compiled = False
    return [
        Lever("call of a step, compiled as a whole", "us", lambda on: _call_us(compiled[on])),
        Lever(
            "call of a step traced for Metal, with kernels",
            "us",
            lambda on: _call_us(kernels[on]),
        ),
        Lever(
            f"{CHUNK:,} tokens of a prompt, logits of the last only",
            "ms",
            lambda on: _prompt_ms(model, all_logits=not on),
        ),
        Lever(
            f"{CHUNK:,} tokens of a prompt, sorted by expert",
            "ms",
            lambda on: _prompt_ms(model, by_expert=on),
        ),
        Lever(
            f"attention in queued steps after {context:,} tokens, body and tail",
            "ms",
            lambda on: _kv_ms(context, model.network.dtype, two_parts=on),
        ),
    ]


def _host_step(toy: Geometry, *, on_gpu: bool, kernels: bool | None = None) -> BlankStep:
    """A step of a network without weights; kernels: traced for Metal, with them or with twins."""
    stand_ins = StandIns(compile=False)
    step = BlankStep.of(
        toy,
        toy.config.layer_types,
        on_gpu=on_gpu,
        kernels=every_kernel(stand_ins) if kernels else Kernels.plain(),
        context=CONTEXT,
        sampling=GREEDY,
    )
    if kernels is not None:
        with stand_ins.installed():
            _call_us(step)
    return step


def _call_us(step: BlankStep) -> float:
    """Of this thread's own time, so that other work on the machine is not in it."""
    token = mx.array([0], mx.int32)
    mx.eval(token)
    found = []
    for _ in range(WARM_CALLS + HOST_CALLS):
        begin = time.thread_time()
        result = step(token)
        found.append((time.thread_time() - begin) * 1e6)
        del result
    return statistics.median(found[WARM_CALLS:])


def _seconds() -> float:
    """Of a CPU that computes: its own time, so that other work on the machine is not in it."""
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    return time.process_time() if on_cpu else time.perf_counter()


def _prompt_ms(model: Model, *, all_logits: bool = False, by_expert: bool = True) -> float:
    tokens = random_tokens(model.config.vocab_size, CHUNK, seed=1)
    with _tokens_sorted_by_expert(by_expert):
        state = SequenceState(model.config, model.network.dtype)
        begin = _seconds()
        hidden = model.steps.prefill(state, tokens)
        wanted = hidden if all_logits else hidden[:, -1:]
        mx.eval(model.network.logits(wanted), state.layers.moving(), state.layers.bodies())
        return (_seconds() - begin) * 1e3


@contextmanager
def _tokens_sorted_by_expert(on: bool) -> Iterator[None]:
    with mock.patch.object(experts, "SORT_FROM", experts.SORT_FROM if on else CHUNK + 1):
        yield


def _kv_ms(context: int, dtype: mx.Dtype, *, two_parts: bool) -> float:
    """A step of one layer's attention, each queued before the one before it has ended. Without two
    parts one buffer holds all keys, which a tail as long as the context is."""
    capacity, size = (context, TAIL) if two_parts else (0, context + TAIL)
    first = 0 if two_parts else context

    def drawn(heads: int, length: int) -> mx.array:
        return mx.random.normal((1, heads, length, HEAD), dtype)

    bodies = drawn(KV_HEADS, capacity), drawn(KV_HEADS, capacity)
    tails = [drawn(KV_HEADS, size) for _ in range(2)]
    q, lengths = drawn(HEADS, 1), mx.array([capacity], mx.int32)
    gate = mx.zeros((1, 1, HEADS * HEAD), dtype)
    mx.eval(*bodies, tails, q, gate)
    begin = 0.0
    for n in range(WARM_CALLS + KV_STEPS):
        if n == WARM_CALLS:
            mx.eval(q)
            begin = _seconds()
        place = mx.array([first + n])
        tails = [mx.slice_update(tail, q[:, :KV_HEADS], place, (2,)) for tail in tails]
        filled = mx.array(first + n + 1, mx.int32)
        keys, values = tails
        out = decode_attention(q, *bodies, keys, values, lengths, filled, HEAD**-0.5, gate)
        before, q = q, out.reshape(q.shape)
        mx.async_eval(q, *tails)
        mx.eval(before)
    mx.eval(q)
    return (_seconds() - begin) * 1e3 / KV_STEPS
