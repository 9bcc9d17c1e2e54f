"""The single worker and its asyncio face. Importing this package imports neither mlx nor model."""

from server.engine.engine import (
    Engine,
    EngineSettings,
    GenerationDefaults,
    Health,
    ModelInfo,
    Stream,
)
from server.engine.request import GenerationRequest, Thinking

__all__ = [
    "Engine",
    "EngineSettings",
    "GenerationDefaults",
    "GenerationRequest",
    "Health",
    "ModelInfo",
    "Stream",
    "Thinking",
]
