"""The fields that chat completions and text completions have in common, and their legal values.

Knows names and ranges; what is particular to a dialect is in its own schema.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from server.api.fields import SWITCH, Fields
from server.api.response_format import GrammarFields
from server.api.sampling_fields import SamplingFields

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1024
MAX_N = 8
MAX_STRING = 1024


class StreamOptions(Fields):
    include_usage: bool | None = Field(None, description=SWITCH)
    continuous_usage_stats: bool | None = Field(None, description=SWITCH)


class OpenAIFields(SamplingFields, GrammarFields):
    """None where a request leaves one out."""

    model: str | None = Field(
        None, max_length=MAX_STRING, description=f"a string of up to {MAX_STRING} characters"
    )
    stream: bool | None = Field(None, description=SWITCH)
    stream_options: StreamOptions | None = Field(None, description="an object")
    n: int | None = Field(None, ge=1, le=MAX_N, description=f"an integer from 1 to {MAX_N}")
    stop: str | list[str] | None = Field(
        None,
        description=f"a string or a list of up to {MAX_STOPS} strings, "
        f"each of 1 to {MAX_STOP_CHARACTERS} characters",
    )
    prompt_cache_key: str | None = Field(
        None, max_length=MAX_STRING, description=f"a string of up to {MAX_STRING} characters"
    )

    @field_validator("stop")
    @classmethod
    def _stops(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if stops is not None and (
            len(stops) > MAX_STOPS or any(not 1 <= len(s) <= MAX_STOP_CHARACTERS for s in stops)
        ):
            raise ValueError("length")
        return stops

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Usage in every chunk, which needs `include_usage`, as with vLLM."""
        options = self.stream_options
        return self.include_usage and bool(options and options.continuous_usage_stats)
