"""The one error of rules that cannot be enforced."""

from __future__ import annotations


class GrammarError(ValueError):
    """A grammar, schema or tool that cannot be enforced: what is wrong with it, and the field of
    the request that holds it. keyword: the schema's keyword at fault, where it is one; value: the
    value at fault, where others are enforced."""

    def __init__(
        self, message: str, param: str, *, keyword: str | None = None, value: object = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.keyword = keyword
        self.value = value
