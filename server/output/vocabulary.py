"""The tokenizer as the grammar engine knows it, and sets of its tokens as bit masks.

Knows llguidance and numpy; no grammar.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable

import llguidance
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.int32]
WORD = 32
_NEWLINES = 9  # in one token, at most

# What one grammar may cost, so that no request can hold the worker. An ambiguous one has many items
# in a row; with 2,000 of them a mask took seconds.
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=500, max_lexer_states=50_000, verbose_errors=False
)


class Vocabulary:
    """Built once for a model: it takes up to some seconds. `vocab_size` may exceed the
    tokenizer's, as networks are padded; `eos` ends an answer, as do all of `ends`."""

    def __init__(
        self, tokenizer_json: str, *, vocab_size: int, eos: int, ends: Iterable[int] = ()
    ) -> None:
        document = json.loads(tokenizer_json)
        # Added tokens (control tokens, tags) are no text here, so that no grammar can spell one:
        # llguidance would write a schema's "<think>" by the token of that name, which its own
        # parser then refuses. Nobody can guess the names they have instead.
        secret = secrets.token_hex(8)
        for token in document.get("added_tokens") or ():
            token |= {"special": True, "content": f"{secret}-{token['id']}"}
        self.eos = eos
        self.ends = frozenset({eos, *ends})
        self.words = -(-vocab_size // WORD)
        self.tokenizer = llguidance.LLTokenizer(
            json.dumps(document), n_vocab=vocab_size, eos_token=eos
        )
        self._bits = vocab_size

    def mask(self, tokens: Iterable[int]) -> Mask:
        """The mask that allows exactly `tokens`."""
        words = np.zeros(self.words, np.uint32)
        for token in tokens:
            words[token // WORD] |= np.uint32(1 << token % WORD)
        return words.view(np.int32)

    def all_but(self, tokens: Iterable[int]) -> Mask:
        """The mask that allows everything else."""
        return ~self.mask(tokens)

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        """A matcher at the beginning of `grammar` (as llguidance's grammar_from_* make them). One
        that cannot be compiled says so in its get_error()."""
        return llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=LIMITS)

    def allowed(self, matcher: llguidance.LLMatcher) -> Mask:
        """What `matcher` allows next."""
        words = np.frombuffer(matcher.compute_bitmask(), np.int32)
        if len(words) == self.words:
            return words
        whole = np.zeros(self.words, np.int32)
        whole[: len(words)] = words[: self.words]
        return whole

    def first_allowed(self, matcher: llguidance.LLMatcher) -> int | None:
        """One token that `matcher` allows next; None for none."""
        words = self.allowed(matcher).view(np.uint32)
        found = np.flatnonzero(words)
        if not len(found):
            return None
        word = int(words[found[0]])
        return int(found[0]) * WORD + (word & -word).bit_length() - 1

    def text(self, token: int) -> bytes:
        """The bytes of a token; those of a control token are not text, and none."""
        if self.tokenizer.is_special_token(token):
            return b""
        return self.tokenizer.decode_bytes([token])

    def tokens(self, text: bytes) -> list[int]:
        """Some tokens whose bytes are `text`."""
        return self.tokenizer.tokenize_bytes(text)

    def with_more_newlines(self, text: bytes) -> list[tuple[int, bytes]]:
        """Tokens that are `text` and newlines after it, each with these newlines."""
        found = []
        for count in range(1, _NEWLINES):
            more = b"\n" * count
            tokens = self.tokens(text + more)
            if len(tokens) == 1:
                found.append((tokens[0], more))
        return found
