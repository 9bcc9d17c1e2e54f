"""Sampling parameters, as every OpenAI dialect spells them.

Knows names and ranges; what a checkpoint recommends for those left out comes from outside.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from model.sampling import SamplingParams
from server.api.fields import MAX_INT32, Fields
from server.engine import GenerationDefaults

MAX_BIASES = 1024


class SamplingFields(Fields):
    """None where a request leaves one out."""

    seed: int | None = Field(
        None, ge=-(2**63), le=2**63 - 1, description="an integer from -2^63 to 2^63 - 1"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="a number from 0 to 2")
    top_p: float | None = Field(None, gt=0, le=1, description="a number above 0 and up to 1")
    top_k: int | None = Field(
        None, ge=-1, le=MAX_INT32, description=f"an integer from -1 to {MAX_INT32} (-1, 0: off)"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 to 1")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="a number from -2 to 2")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=10, description="a number from 0.01 to 10"
    )
    logit_bias: dict[str, float] | None = Field(
        None,
        max_length=MAX_BIASES,
        description=f"an object of up to {MAX_BIASES} token ids, each with a number "
        "from -100 to 100",
    )

    @field_validator("logit_bias")
    @classmethod
    def _biases(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (biases or {}).items():
            known = token.isascii() and token.isdecimal() and len(token) <= 10
            if not known or not -100 <= bias <= 100:
                raise ValueError("range")
        return biases


def sampling_of(fields: SamplingFields, defaults: GenerationDefaults) -> SamplingParams:
    """`fields` with the checkpoint's `defaults` for what they leave out."""

    def given(value: float | None, default: float) -> float:
        return default if value is None else value

    return SamplingParams(
        temperature=given(fields.temperature, defaults.temperature),
        top_p=given(fields.top_p, defaults.top_p),
        top_k=max(0, int(given(fields.top_k, defaults.top_k))),
        min_p=given(fields.min_p, defaults.min_p),
        presence_penalty=given(fields.presence_penalty, 0.0),
        frequency_penalty=given(fields.frequency_penalty, 0.0),
        repetition_penalty=given(fields.repetition_penalty, 1.0),
        seed=None if fields.seed is None else fields.seed % 2**63,
        logit_bias={int(token): bias for token, bias in (fields.logit_bias or {}).items()},
    )
