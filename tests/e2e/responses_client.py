"""How the tests of Responses ask a server, through OpenAI's SDK."""

from __future__ import annotations

from typing import Any

import openai
from openai.types.responses import Response

from tests.conftest import ServerProcess

FRANCE = "What is the capital of France?"
NO_THOUGHT: Any = {"effort": "none"}
SEALED: Any = ["reasoning.encrypted_content"]


def connected(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, given: Any = FRANCE, **fields: Any) -> Any:
    """The response, which is strictly of the SDK's type."""
    fields = {"model": "demo", "temperature": 0, **fields}
    raw = client.responses.with_raw_response.create(input=given, **fields)
    Response.model_validate_json(raw.http_response.text, strict=True)
    return raw.parse()


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def texts(item: Any) -> list[str]:
    return [part.text for part in getattr(item, "content", None) or []]


def sent(response: Any) -> list[Any]:
    """Its output as the next request's input."""
    return [item.model_dump(mode="json", exclude_unset=True) for item in response.output]


def cached(response: Any) -> int:
    return response.usage.input_tokens_details.cached_tokens


def user(text: str) -> Any:
    return {"role": "user", "content": text}
