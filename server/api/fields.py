"""What the wire schemas of all dialects share: strict fields, and errors that say what is legal.

A field's description completes the sentence "X must be ...", so that the documentation and the
error message are one text. Fields not listed are ignored, as clients send many.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from server.api.errors import ApiError

MAX_INT32 = 2**31 - 1
SWITCH = "true, false or null"
TOKEN_LIMIT = f"an integer from 1 to {MAX_INT32}, or null (or -1) for no limit"


class Fields(BaseModel):
    """An object on the wire; null means the same as left out."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, body: Any) -> Any:
        """JSON has one kind of number: 36.0 is an integer."""
        if not isinstance(body, dict):
            return body
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in body.items()
        }


F = TypeVar("F", bound=Fields)


def parse(kind: type[F], body: dict[str, Any]) -> F:
    """`body` as `kind`. Raises ApiError naming the field, what is legal and what was got."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _explain(error, kind, body) from None


def _explain(error: ValidationError, kind: type[BaseModel], body: dict[str, Any]) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "missing":
        field = ".".join(map(str, first["loc"]))
        return ApiError(f"{field} is required.", param=field, code="missing_required_parameter")
    path: list[str] = []
    model: type[BaseModel] | None = kind
    legal = "a legal value"
    got: Any = body
    for step in first["loc"]:
        field = model.model_fields.get(str(step)) if model is not None else None
        if field is None:
            break
        path.append(str(step))
        got = got[step]
        legal = field.description or legal
        model = _nested(field.annotation)
    param = ".".join(path)
    if first["type"] == "extra_forbidden" and model is not None:
        keys = ", ".join(model.model_fields)
        name = f"{param}.{first['loc'][-1]}"
        return ApiError(f"{name:.200} is not supported; {param} may have: {keys}.", param=param)
    return ApiError(f"{param} must be {legal}; got {shown(got)}.", param=param)


def _nested(annotation: Any) -> type[BaseModel] | None:
    for option in getattr(annotation, "__args__", ()):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def shown(value: Any) -> str:
    """A short JSON-like form of a value, for an error message."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object" if value else "{}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "[]"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
