"""Compiled grammars, kept for the requests that bring them again.

Knows llguidance; not what the grammars are for. All copies of a matcher share the states of one
lexer, which grow with what is read, up to a limit that none of them survives: so a grammar is
compiled anew after some uses, and everything is once one has failed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import llguidance

from .grammar_error import GrammarError
from .vocabulary import Vocabulary

_KEPT = 2048
# Of the grammars' texts; compiled they take some 45 times as much, measured.
_KEPT_BYTES = 8 << 20
_USES = 256


class CompiledCache:
    """Matchers at the beginning of their grammars, by the grammar's text. Safe from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._kept: OrderedDict[str, tuple[llguidance.LLMatcher, int]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def lark(self, text: str, param: str = "") -> llguidance.LLMatcher:
        """To be copied, not used itself. Raises GrammarError when it cannot be compiled."""
        return self.get(llguidance.LLMatcher.grammar_from_lark(text), param)

    def get(self, grammar: str, param: str) -> llguidance.LLMatcher:
        """The same for a grammar in llguidance's own form."""
        with self._lock:
            matcher, uses = self._kept.get(grammar, (None, 0))
            if matcher is not None and uses < _USES:
                self._kept[grammar] = matcher, uses + 1
                self._kept.move_to_end(grammar)
                return matcher
        matcher = self.vocabulary.matcher(grammar)
        if matcher.is_error():
            text = f"The grammar is not supported: {told(matcher)}"
            raise GrammarError(text, param)
        with self._lock:
            self._bytes += 0 if grammar in self._kept else len(grammar)
            self._kept[grammar] = matcher, 1
            self._kept.move_to_end(grammar)
            while len(self._kept) > _KEPT or self._bytes > _KEPT_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[0])
        return matcher

    def forget(self) -> None:
        """A matcher failed: whatever shares its states would fail too."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


def told(matcher: llguidance.LLMatcher) -> str:
    """What `matcher` says of its error, on one line of at most 300 characters; "" of none."""
    text = matcher.get_error().replace("<non-verbose/>", "")
    return " ".join(text.split())[:300]
