"""What every route needs: the engine's face and the settings that shape answers.

The one place that says which part of the engine the dialects use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, cast

from starlette.requests import Request

from server.engine import GenerationRequest, Health, ModelInfo, Rendered
from server.engine.durations import Durations
from server.engine.events import Event
from server.metrics import Metrics
from server.settings import Settings


class EventSource(Protocol):
    """The events of one submitted request."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    def cancel(self) -> None: ...


class Serving(Protocol):
    """The engine as the dialects see it; server.engine.Engine is one."""

    @property
    def info(self) -> ModelInfo: ...

    def health(self) -> Health: ...

    def durations(self) -> Mapping[str, Durations]: ...

    async def submit(self, request: GenerationRequest) -> EventSource: ...

    async def render(self, request: GenerationRequest) -> Rendered: ...

    async def tokenize(self, text: str, *, special: bool = True) -> list[int]: ...

    async def detokenize(self, tokens: Sequence[int]) -> str: ...

    async def token_texts(self, tokens: Sequence[int]) -> list[str]: ...


def engine_of(request: Request) -> Serving:
    return cast(Serving, request.app.state.engine)


def metrics_of(request: Request) -> Metrics:
    return cast(Metrics, request.app.state.metrics)


def settings_of(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)
