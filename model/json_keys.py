"""Typed look-ups in a JSON object that name file and key path when something is wrong.

Knows JSON and error wording, nothing about models.
"""

import json
import sys
from collections.abc import ItemsView
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import CheckpointError

_T = TypeVar("_T")
_REQUIRED: Any = object()
_LIMIT = 1 << 31


@dataclass(frozen=True, slots=True)
class Section:
    """One JSON object of a file. A key that is null counts as absent."""

    file: Path
    path: str
    values: dict[str, Any]

    @classmethod
    def from_file(cls, file: Path) -> "Section":
        """The object a JSON file holds; CheckpointError when there is none."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(f"{file}: no such file") from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: not readable as JSON: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: expected a JSON object, found {_kind(values)}")
        return cls(file, "", values)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def items(self) -> ItemsView[str, Any]:
        return self.values.items()

    def error(self, key: str, expected: str, found: str) -> CheckpointError:
        """The error about one key, to be raised by whoever knows what it should be."""
        return CheckpointError(f"{self.file}: {self.path}{key}: expected {expected}, found {found}")

    def section(self, key: str) -> "Section":
        value = self._value(key, _REQUIRED, "an object")
        if not isinstance(value, dict):
            raise self.error(key, "an object", _kind(value))
        return Section(self.file, f"{self.path}{key}.", value)

    def string(self, key: str, default: _T = _REQUIRED) -> str | _T:
        value = self._value(key, default, "a string")
        if value is not default and not isinstance(value, str):
            raise self.error(key, "a string", _kind(value))
        return value

    def boolean(self, key: str, default: _T = _REQUIRED) -> bool | _T:
        value = self._value(key, default, "true or false")
        if value is not default and not isinstance(value, bool):
            raise self.error(key, "true or false", _kind(value))
        return value

    def integer(self, key: str, default: _T = _REQUIRED, *, low: int) -> int | _T:
        """An integer from `low` to 2^31 - 1, above which no size or id makes sense."""
        expected = f"an integer of at least {low}"
        value = self._value(key, default, expected)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < _LIMIT:
            raise self.error(key, expected, _kind(value))
        return value

    def number(
        self, key: str, default: _T = _REQUIRED, *, low: float, high: float = float("inf")
    ) -> float | _T:
        """A number with low <= number <= high, finite."""
        expected = f"a number of at least {low:g}" + (
            "" if high == float("inf") else f", {high:g} at most"
        )
        value = self._value(key, default, expected)
        if value is default:
            return value
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= min(high, sys.float_info.max):
            raise self.error(key, expected, _kind(value))
        return float(value)

    def positive_int(self, key: str, default: int = _REQUIRED) -> int:
        return self.integer(key, default, low=1)

    def positive_float(self, key: str, default: float = _REQUIRED) -> float:
        value = self.number(key, default, low=0)
        if value <= 0:
            raise self.error(key, "a number above 0", _kind(value))
        return value

    def _value(self, key: str, default: Any, expected: str) -> Any:
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise self.error(key, expected, "nothing")
        return default


def _kind(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
