"""The checkpoint's chat template: messages to prompt text.

Knows Jinja and where a checkpoint keeps its template; knows neither tokens nor what roles mean. The
template comes from the checkpoint only, never from a request: Jinja's sandbox stops code, not work.
Work is bounded here: the time of a rendering, its text, and products of strings.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import CheckpointError

MAX_CHARACTERS = 64 * 1024 * 1024
MAX_SECONDS = 60.0  # a long prompt on a busy machine takes seconds
_TURN = "_mxserve_turn"
_SPECIAL_NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


class TemplateError(ValueError):
    """The template could not render these messages."""


class TemplateRefusal(TemplateError):
    """The template itself refused the messages (`raise_exception`): the request is at fault."""


class ChatTemplate:
    """A compiled chat template. Rendering changes nothing: any thread may use it."""

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str] | None = None,
        max_characters: int = MAX_CHARACTERS,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        """Raises CheckpointError when `source` is not a valid template."""
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        self._max_characters = max_characters
        self._max_seconds = max_seconds
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(f"chat template, line {error.lineno}: {error.message}") from error

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate:
        """Reads `chat_template.jinja`, else `chat_template` in tokenizer_config.json. Raises
        CheckpointError when neither holds one."""
        folder = Path(folder)
        config = _tokenizer_config(folder / "tokenizer_config.json")
        path = folder / "chat_template.jinja"
        if path.is_file():
            source = path.read_text(encoding="utf-8")
        else:
            source = _default_template(config.get("chat_template"))
        if not source:
            raise CheckpointError(f"{folder}: no chat template (chat_template.jinja) in it")
        tokens = {name: _token_text(config.get(name)) for name in _SPECIAL_NAMES}
        return cls(source, special_tokens={name: text for name, text in tokens.items() if text})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        enable_thinking: bool,
        preserve_thinking: bool,
    ) -> str:
        """The prompt text. Raises TemplateRefusal where the template calls raise_exception, and
        TemplateError when rendering fails, takes too long or grows past the limit."""
        self._environment.begin(self._max_seconds)
        fragments: list[str] = []
        length = 0
        try:
            for fragment in self._template.generate(
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=enable_thinking,
                preserve_thinking=preserve_thinking,
                **self._special_tokens,
            ):
                length += len(fragment)
                if length > self._max_characters:
                    raise TemplateError(
                        f"The chat template's output passes {self._max_characters} characters."
                    )
                fragments.append(fragment)
        except TemplateError:
            raise
        except Exception as error:  # a template can raise anything an expression can
            raise TemplateError(f"The chat template failed: {error}") from error
        return "".join(fragments)


class _Bounded(ImmutableSandboxedEnvironment):
    """A sandbox whose renderings have an end: every turn of a loop and every call looks at the
    time, of which each thread has its own."""

    intercepted_binops = frozenset(("*", "**"))

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._end = threading.local()
        self.globals[_TURN] = lambda: None

    def begin(self, seconds: float) -> None:
        """A rendering begins in this thread, for at most so many seconds."""
        self._end.at = time.monotonic() + seconds

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() > getattr(__self._end, "at", 0.0):
            raise TemplateError("The chat template takes too long.")
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(n, (int, float)) for n in (left, right)):
            raise TemplateError("A chat template may have products of numbers only.")
        return super().call_binop(context, operator, left, right)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for loop in source.find_all(nodes.For):
            turn = nodes.Call(nodes.Name(_TURN, "load"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(turn).set_lineno(loop.lineno))
        return super()._generate(source, *args, **kwargs)


def _environment() -> _Bounded:
    environment = _Bounded(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON as in training: the keys in the client's order, nothing escaped for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(message)


def _tokenizer_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: a JSON object was expected")
    return config


def _default_template(value: object) -> str:
    """The template of a tokenizer_config.json: a string, or a list of named ones."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for entry in value:
            if isinstance(entry, dict) and entry.get("name") == "default":
                return str(entry.get("template") or "")
    return ""


def _token_text(value: object) -> str:
    """A special token is written as its text, or as an object that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
