"""Qwen3.6-MoE on MLX, from Python: `load`, `generate`, `stream`, `load_session`.

Knows nothing of HTTP. Names load when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# First: on Linux its BLAS has to be in the process before mlx is.
from model import device as device

if TYPE_CHECKING:
    from model.sampling import SamplingParams
    from model.session import Delta, Session, generate, load, load_session, stream

__all__ = ["Delta", "SamplingParams", "Session", "generate", "load", "load_session", "stream"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    from importlib import import_module

    home = "model.sampling" if name == "SamplingParams" else "model.session"
    return getattr(import_module(home), name)
