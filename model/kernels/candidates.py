"""The forms of all regions that have to prove themselves: Metal kernels, with the sizes they are
tried in, and twins in which a function of mlx does a part.

How many threads a threadgroup may have depends on the registers that Metal's compiler gives a
thread, and what is fastest on the chip: so some kernels come in several sizes, the most promising
first, and the admission takes the fastest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from model import delta_rule
from model.kernels.decode_attention import metal_decode_attention
from model.kernels.decode_attention_several import metal_decode_attention_several
from model.kernels.delta_step import delta_step, metal_delta_step
from model.kernels.delta_step_several import delta_step_several, metal_delta_step_several
from model.kernels.expert_down import metal_expert_down
from model.kernels.metal import Runner, UnsupportedError, run
from model.kernels.qk_norm_rope import metal_qk_norm_rope
from model.kernels.qk_norm_rope_several import metal_qk_norm_rope_several
from model.kernels.residual_norm import metal_add_rms_norm
from model.kernels.router import metal_router_top_k
from model.kernels.vocabulary_top_k import metal_vocabulary_top_k


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel in one size; `size` is empty where there is only one. Raises UnsupportedError for
    shapes beyond it. Of a twin, `size` says what it is made with."""

    size: str
    kernel: Callable[..., Any]


Candidates = Mapping[str, Sequence[Candidate]]


def candidates(runner: Runner = run) -> Candidates:
    """Region -> its kernels, none of which has proved anything yet."""

    def one(kernel: Callable[..., Any]) -> list[Candidate]:
        return [Candidate("", partial(kernel, runner=runner))]

    def sized(kernel: Callable[..., Any], name: str, values: Sequence[int]) -> list[Candidate]:
        return [
            Candidate(f"{name}={value}", partial(kernel, **{name: value, "runner": runner}))
            for value in values
        ]

    def together(parts: int) -> Candidate:
        kernel = partial(metal_decode_attention_several, parts=parts, together=True, runner=runner)
        return Candidate(f"parts={parts}, tokens together", kernel)

    one_token = partial(metal_delta_step, runner=runner)

    return {
        "add_rms_norm": one(metal_add_rms_norm),
        "router_top_k": one(metal_router_top_k),
        "delta_step": sized(metal_delta_step, "most_simdgroups", (32, 16)),
        "qk_norm_rope": one(metal_qk_norm_rope),
        "decode_attention": sized(metal_decode_attention, "parts", (32, 16)),
        "expert_down": sized(metal_expert_down, "rows", (8, 4, 16)),
        "vocabulary_top_k": sized(metal_vocabulary_top_k, "simdgroups", (32, 16, 8)),
        "qk_norm_rope_several": one(metal_qk_norm_rope_several),
        "decode_attention_several": [
            *sized(metal_decode_attention_several, "parts", (32, 16)),
            *(together(parts) for parts in (16, 8)),
        ],
        "delta_step_several": [
            *sized(metal_delta_step_several, "most_simdgroups", (32, 16)),
            Candidate("a launch per token", partial(delta_step_several, one=one_token)),
        ],
    }


def other_twins() -> Candidates:
    """Region -> twins that a GPU may be faster with than with plain operations alone."""

    name, update = "mx.fast.gated_delta_update", partial(delta_step, rule=delta_rule.built_in)
    several = partial(delta_step_several, one=update)
    return {
        "delta_step": [Candidate(name, update)],
        "delta_step_several": [Candidate(name, several)],
    }


def or_twin(kernel: Callable[..., Any], twin: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, and its twin for shapes that the kernel does not take."""

    def region(*args: Any, **kwargs: Any) -> Any:
        try:
            return kernel(*args, **kwargs)
        except UnsupportedError:
            return twin(*args, **kwargs)

    return region
