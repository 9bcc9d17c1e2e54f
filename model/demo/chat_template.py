"""Renders the demo's chat template the way transformers does: sandboxed jinja2, plain `tojson`."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHECKPOINT = Path(__file__).parent / "checkpoint"


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


@cache
def template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string((CHECKPOINT / "chat_template.jinja").read_text())


def render(messages: list[dict[str, Any]], **options: Any) -> str:
    """The prompt text of `messages`; options: tools, add_generation_prompt, enable_thinking, ..."""
    return template().render(messages=messages, **options)
