"""The one error of rules that cannot be enforced."""

from __future__ import annotations


class GrammarError(ValueError):
    """A grammar, schema or tool that cannot be enforced: what is wrong with it, and the field of
    the request that holds it."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param
