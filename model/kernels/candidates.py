"""The Metal kernels of all regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from model.kernels import Kernels
from model.kernels.decode_attention import metal_decode_attention
from model.kernels.delta_step import metal_delta_step
from model.kernels.expert_down import metal_expert_down
from model.kernels.metal import Runner, UnsupportedError, run
from model.kernels.qk_norm_rope import metal_qk_norm_rope
from model.kernels.residual_norm import metal_add_rms_norm
from model.kernels.router import metal_router_top_k


def candidates(runner: Runner = run) -> Kernels:
    """One kernel per region, none of which has proved anything yet. Each raises UnsupportedError
    for shapes beyond it."""
    return Kernels(
        add_rms_norm=partial(metal_add_rms_norm, runner=runner),
        router_top_k=partial(metal_router_top_k, runner=runner),
        delta_step=partial(metal_delta_step, runner=runner),
        qk_norm_rope=partial(metal_qk_norm_rope, runner=runner),
        decode_attention=partial(metal_decode_attention, runner=runner),
        expert_down=partial(metal_expert_down, runner=runner),
    )


def or_twins(kernels: Kernels) -> Kernels:
    """The same, with the twin for calls that a kernel does not take."""
    twins = Kernels.plain()
    return Kernels(
        **{
            field.name: _or_twin(getattr(kernels, field.name), getattr(twins, field.name))
            for field in fields(Kernels)
        }
    )


def _or_twin(kernel: Callable[..., Any], twin: Callable[..., Any]) -> Callable[..., Any]:
    def region(*args: Any, **kwargs: Any) -> Any:
        try:
            return kernel(*args, **kwargs)
        except UnsupportedError:
            return twin(*args, **kwargs)

    return region
