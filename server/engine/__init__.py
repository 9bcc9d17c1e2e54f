"""The single worker and its asyncio face. Importing this package imports neither mlx nor model."""

from server.engine.engine import (
    Engine,
    EngineSettings,
    GenerationDefaults,
    Health,
    ModelInfo,
    Rendered,
    Stream,
)
from server.engine.request import GenerationRequest, GrammarSpec, Thinking, ToolChoice

__all__ = [
    "Engine",
    "EngineSettings",
    "GenerationDefaults",
    "GenerationRequest",
    "GrammarSpec",
    "Health",
    "ModelInfo",
    "Rendered",
    "Stream",
    "Thinking",
    "ToolChoice",
]
