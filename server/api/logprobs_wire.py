"""Log probabilities as clients see them: in the shape of chats, and in that of completions.

Knows OpenAI's two shapes; which tokens they belong to is decided elsewhere.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from server.engine.events import TokenLogprob, TopLogprob

LEAST = -9999.0  # JSON has no infinity; OpenAI's stand-in for "very unlikely"

Json = dict[str, Any]


def chat_logprobs(tokens: Iterable[TokenLogprob]) -> list[Json]:
    """One entry for each token, with `top_logprobs`, as in `logprobs.content`."""
    return [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}
        for token in tokens
    ]


def _entry(token: TokenLogprob | TopLogprob) -> Json:
    return {
        "token": token.token,
        "logprob": max(token.logprob, LEAST),
        "bytes": list(token.bytes),
    }


class LegacyLogprobs:
    """The four lists of a text completion: `tokens`, `token_logprobs`, `top_logprobs` (the `k`
    likeliest, the chosen one always among them) and `text_offset`, in characters of the choice's
    text, counted on from one call to the next."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of_prompt(self, tokens: Sequence[TokenLogprob | None], first: str) -> Json:
        """The lists for a prompt, whose control tokens are part of the text. None, as its first
        token is, has the text `first` and no probability."""
        lists = _lists()
        for token in tokens:
            if token is None:
                self._add(lists, first, None, None, first.encode())
            else:
                self._add_token(lists, token, token.bytes or token.token.encode())
        return lists

    def of_answer(self, tokens: Sequence[TokenLogprob]) -> Json:
        """The lists for more of the answer."""
        lists = _lists()
        for token in tokens:
            self._add_token(lists, token, token.bytes)
        return lists

    def _add_token(self, lists: Json, token: TokenLogprob, piece: bytes) -> None:
        logprob = max(token.logprob, LEAST)
        top: dict[str, float] = {}
        for other in token.top[: self._k]:
            top.setdefault(_spelled(other), max(other.logprob, LEAST))
        top.setdefault(_spelled(token), logprob)
        self._add(lists, _spelled(token), logprob, top, piece)

    def _add(
        self,
        lists: Json,
        text: str,
        logprob: float | None,
        top: dict[str, float] | None,
        piece: bytes,
    ) -> None:
        lists["tokens"].append(text)
        lists["token_logprobs"].append(logprob)
        lists["top_logprobs"].append(top)
        lists["text_offset"].append(self._offset)
        self._offset += len(self._decoder.decode(piece))


def joined(parts: Iterable[Json]) -> Json:
    """Several such objects as one."""
    lists = _lists()
    for part in parts:
        for name, values in part.items():
            lists[name] += values
    return lists


def _lists() -> Json:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _spelled(token: TokenLogprob | TopLogprob) -> str:
    """The token's text; `bytes:\\x..` where its bytes are not text, so that no two look alike."""
    try:
        return token.bytes.decode() if token.bytes else token.token
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)
