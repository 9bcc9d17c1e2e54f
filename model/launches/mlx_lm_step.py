"""mlx-lm's decode step, counted and called in the same way as ours.

`python -m model.launches.mlx_lm_step`, in an environment of its own that has mlx-lm, with the
folder around the `model` package on PYTHONPATH. The step is that of mlx_lm.generate.generate_step:
the model, the log probabilities that it always computes, and argmax. Prints JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections import Counter
from importlib import metadata
from typing import Any

import mlx.core as mx

from model.geometry import NAMES, Geometry, named, toy
from model.launches.counts import Counts, command_buffers, count_compiled, counted
from model.launches.graph import Graph, record
from model.launches.metal import launches
from model.launches.stand_ins import StandIns, blank

WARM_CALLS = 3
WATCHED = (
    ("mlx_lm.models.qwen3_5", "GatedDeltaNet", "DeltaNet mixers"),
    ("mlx_lm.models.qwen3_next", "Qwen3NextAttention", "attention mixers"),
    ("mlx_lm.models.qwen3_next", "Qwen3NextSparseMoeBlock", "experts"),
)


MLX_LIMITS = {"operations": 50, "megabytes": 50}  # of a command buffer on a Max chip; mlx-lm's too


def count_step(geometry: Geometry, *, context: int) -> tuple[Counts, int]:
    """Launches of one decoded token after `context` tokens, from two repeating groups of layers
    (mlx-lm decides by a layer's number which kind it is), and command buffers of the whole step."""
    kinds = geometry.config.layer_types
    group = kinds.index("full_attention") + 1
    groups, rest = divmod(len(kinds), group)
    if rest:
        raise ValueError(f"{len(kinds)} layers are not groups of {group}")
    # Compiled functions and kernels are made while modules are imported: with stand-ins, then.
    stand_ins = StandIns(count_compiled=count_compiled, metal=True)
    with stand_ins.installed():
        step = _Step(geometry, group)
    one = step.counts(group, context, stand_ins)
    two = step.counts(2 * group, context, stand_ins)
    total = Counter(one)
    for key in one.keys() | two.keys():
        total[key] += (groups - 1) * (two[key] - one[key])
    whole = launches(step.recorded(len(kinds), context, stand_ins))
    buffers = command_buffers(whole, **MLX_LIMITS)
    return Counter({key: count for key, count in total.items() if count}), buffers


def host_times(geometry: Geometry, count: int, *, context: int) -> list[float]:
    """Microseconds of each of `count` calls of a step with all layers, not computed. In a process
    that has not counted: that leaves its stand-ins in mlx-lm's modules."""
    step = _Step(geometry, geometry.config.layer_types.index("full_attention") + 1)
    model, token = step.build(len(geometry.config.layer_types)), mx.array([0], mx.int32)
    mx.eval(token)
    found = []
    for _ in range(WARM_CALLS + count):
        cache = step.cache(model, context)
        begin = time.perf_counter()
        result = step.call(model, cache, token)
        found.append((time.perf_counter() - begin) * 1e6)
        del result
    return found[WARM_CALLS:]


class _Step:
    """mlx-lm's modules, imported under stand-ins, and the models made of them."""

    def __init__(self, geometry: Geometry, group: int) -> None:
        self._geometry, self._group = geometry, group
        self._nn = importlib.import_module("mlx.nn")
        self._utils = importlib.import_module("mlx.utils")
        self._model = importlib.import_module("mlx_lm.models.qwen3_5_moe")
        self._watch = [
            (getattr(importlib.import_module(module), owner), "__call__", part)
            for module, owner, part in WATCHED
        ]

    def counts(self, layers: int, context: int, stand_ins: StandIns) -> Counts:
        return counted(self.recorded(layers, context, stand_ins), compiled=False)

    def recorded(self, layers: int, context: int, stand_ins: StandIns) -> Graph:
        model, tokens = self.build(layers), mx.array([0], mx.int32)
        stand_ins.watch(self._watch)

        def step(token: mx.array) -> Any:
            cache = self.cache(model, context)
            return self.call(model, cache, token), [each.state for each in cache]

        return record(step, tokens, stand_ins=stand_ins)

    def call(self, model: Any, cache: list[Any], token: mx.array) -> tuple[mx.array, mx.array]:
        """One step: the sampled token and its log probabilities."""
        logits = model(token[None], cache=cache)[:, -1, :]
        logprobs = logits - mx.logsumexp(logits, keepdims=True)
        return mx.argmax(logprobs, axis=-1), logprobs.squeeze(0)

    def build(self, layers: int) -> Any:
        text = dict(self._geometry.text) | {
            "num_hidden_layers": layers,
            "full_attention_interval": self._group,
        }
        arguments = self._model.ModelArgs.from_dict(
            {"model_type": "qwen3_5_moe", "text_config": text}
        )
        model = self._model.Model(arguments)
        specs = self._geometry.specs

        def quantized(path: str, module: Any) -> Any:
            name = path.removeprefix("language_model.")
            spec = specs.get(name)
            if spec is None:
                return False
            return {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}

        self._nn.quantize(model, class_predicate=quantized)
        model.update(self._utils.tree_map_with_path(_blank_weight, model.parameters()))
        model.eval()
        return model

    def cache(self, model: Any, context: int) -> list[Any]:
        config = self._geometry.config
        capacity = -(-(context + 1) // 256) * 256
        cache = model.make_cache()
        channels = 2 * config.linear_num_key_heads * config.linear_key_head_dim
        channels += config.linear_num_value_heads * config.linear_value_head_dim
        for each in cache:
            if hasattr(each, "offset"):
                shape = (1, config.num_key_value_heads, capacity, config.head_dim)
                each.keys, each.values = blank(shape, mx.bfloat16), blank(shape, mx.bfloat16)
                each.offset = context
            else:
                matrix = (config.linear_value_head_dim, config.linear_key_head_dim)
                tail = (1, config.linear_conv_kernel_dim - 1, channels)
                each[0] = blank(tail, mx.bfloat16)
                each[1] = blank((1, config.linear_num_value_heads, *matrix), mx.float32)
        return cache


def _blank_weight(path: str, array: mx.array) -> mx.array:
    """A weight as mlx-lm loads it: bfloat16 but for what is packed and A_log."""
    whole = array.dtype in (mx.uint8, mx.uint32) or path.endswith("A_log")
    return blank(array.shape, array.dtype if whole else mx.bfloat16)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m model.launches.mlx_lm_step")
    parser.add_argument("--geometry", choices=NAMES, default="qwen3.6-35b-a3b")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--host", type=int, metavar="CALLS", help="time calls of a toy instead")
    options = parser.parse_args()
    geometry, found = named(options.geometry), {"version": metadata.version("mlx-lm")}
    if options.host:
        times = host_times(toy(geometry), options.host, context=options.context)
        print(json.dumps(found | {"microseconds": times}))
        return
    counts, buffers = count_step(geometry, context=options.context)
    table = [[part, kind, count] for (part, kind), count in sorted(counts.items())]
    print(json.dumps(found | {"launches": table, "command_buffers": buffers}))


if __name__ == "__main__":
    main()
