"""Every field that a request may have is named in the reference of its route."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from server.api.anthropic_schema import MessagesRequest
from server.api.chat_schema import ChatRequest
from server.api.completions_schema import CompletionRequest
from server.api.responses_schema import ResponsesRequest
from server.api.tokenize import DetokenizeRequest, TokenizeRequest
from tests.conftest import ROOT

SCHEMAS = [
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    DetokenizeRequest,
    MessagesRequest,
    ResponsesRequest,
]
# Pages that refer to api.md for what is the same there.
PAGES = {MessagesRequest: "messages.md", ResponsesRequest: "responses.md"}


def names(schema: type[BaseModel]) -> Iterator[str]:
    """Of all fields, nested ones with a dot, as a client writes them."""
    for name, field in schema.model_fields.items():
        spelled = field.alias or name
        yield spelled
        for inner in _models(field.annotation):
            yield from (f"{spelled}.{rest}" for rest in names(inner))


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def named(page: str) -> str:
    """What of a page is written as code."""
    text = Path(ROOT, "docs", page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_every_field_is_in_the_reference(schema: type[BaseModel]):
    told = named("api.md") + "\n" + named(PAGES.get(schema, "api.md"))
    missing = [
        name
        for name in names(schema)
        if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", told)
        and not _told_inside(name, told)
    ]
    assert missing == []


def _told_inside(name: str, told: str) -> bool:
    """A nested field may be told as part of an object that is shown whole: thinking: {type}."""
    outer, _, inner = name.rpartition(".")
    last = re.escape(outer.rpartition(".")[2])
    return bool(outer) and re.search(rf'{last}\b.*[{{".]{re.escape(inner)}\b', told) is not None


def test_a_field_that_is_not_there_would_be_seen():
    assert not re.search(r"(?<![\w.])no_such_field(?!\w)", named("api.md"))
    assert "temperature" in set(names(ChatRequest))
    assert "stream_options.include_usage" in set(names(ChatRequest))
