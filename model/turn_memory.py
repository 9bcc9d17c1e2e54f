"""The exact token ids of the assistant turns that this server generated.

A client sends its history back as text, often without the reasoning or with trimmed whitespace; the
ids that text encodes to are then not those whose state is cached. This memory finds a turn by the
tokens before it and by what the client was given. Knows nothing of templates or text encoding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TOKENS = 4_000_000
_VARIANTS = 8
_OVERHEAD = 100


class PrefixDigest:
    """A running digest of a token sequence: equal digests stand for equal tokens."""

    __slots__ = ("_hash",)

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._hash = hashlib.blake2b(array("I", tokens).tobytes(), digest_size=20)

    def update(self, tokens: Iterable[int]) -> None:
        """Appends `tokens`."""
        self._hash.update(array("I", tokens).tobytes())

    def after(self, tokens: Iterable[int]) -> bytes:
        """The digest with `tokens` appended; this one stays as it is."""
        branch = self._hash.copy()
        branch.update(array("I", tokens).tobytes())
        return branch.digest()


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as it was generated, after the prompt that `key` stands for. calls: canonical JSON."""

    key: bytes
    generated: array[int]
    content: str
    reasoning: str
    calls: str

    @property
    def size(self) -> int:
        """In ids: the text is about as large as they are, the rest about `_OVERHEAD` ids."""
        return len(self.generated) + _OVERHEAD

    def to_json(self) -> str:
        """The turn as one line."""
        generated = self.generated.tolist()
        return json.dumps([self.key.hex(), generated, self.content, self.reasoning, self.calls])

    @classmethod
    def from_json(cls, line: str) -> Turn:
        """The inverse of to_json; ValueError for anything else."""
        try:
            key, generated, content, reasoning, calls = json.loads(line)
            turn = cls(bytes.fromhex(key), array("I", generated), content, reasoning, calls)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"no turn: {error}") from error
        if not all(isinstance(text, str) for text in (content, reasoning, calls)):
            raise ValueError("no turn: a text is not a string")
        return turn


class TurnMemory:
    """Bounded by the ids it holds, least recently used first out; safe from any thread."""

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._held = 0
        self._turns: OrderedDict[bytes, list[Turn]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_tokens(self) -> int:
        """How many ids are held, each turn's overhead counted as some."""
        return self._held

    def remember(
        self,
        prefix_tokens: Sequence[int],
        generated_ids: Sequence[int],
        content: str,
        reasoning: str,
        tool_calls: Sequence[Mapping[str, Any]] | None,
        tenant: str = "",
    ) -> Turn:
        """Keeps a finished turn: the prompt's tokens (generation prompt included), the ids
        generated after it, and what the client was given for them. Returns what is kept."""
        turn = Turn(
            _key(tenant, PrefixDigest(prefix_tokens).after(())),
            array("I", generated_ids),
            content.strip(),
            reasoning.strip(),
            _canonical(tool_calls),
        )
        self.keep(turn)
        return turn

    def keep(self, turn: Turn) -> None:
        """Keeps a turn as `remember` returned it, in this process or an earlier one."""
        with self._lock:
            variants = self._turns.setdefault(turn.key, [])
            self._turns.move_to_end(turn.key)
            for same in [t for t in variants if _client_view(t) == _client_view(turn)]:
                self._drop(variants, same)
            variants.append(turn)
            self._held += turn.size
            if len(variants) > _VARIANTS:
                self._drop(variants, variants[0])
            while self._held > self._max_tokens:
                oldest, turns = next(iter(self._turns.items()))
                self._drop(turns, turns[0])
                if not turns:
                    del self._turns[oldest]

    def recall(
        self,
        prefix: bytes,
        content: str,
        reasoning: str,
        tool_calls: Sequence[Mapping[str, Any]] | None,
        tenant: str = "",
    ) -> list[int] | None:
        """The ids generated after the prefix (`PrefixDigest.after`) for the turn that a client now
        sends back, None when there was no such turn of this tenant. An empty `reasoning` matches
        any; the latest turn that matches wins."""
        content, reasoning = content.strip(), reasoning.strip()
        key = _key(tenant, prefix)
        with self._lock:
            variants = self._turns.get(key)
            if variants is None:
                return None
            calls = _canonical(tool_calls)
            for turn in reversed(variants):
                if turn.content != content or turn.calls != calls:
                    continue
                if reasoning in ("", turn.reasoning):
                    self._turns.move_to_end(key)
                    return turn.generated.tolist()
        return None

    def _drop(self, variants: list[Turn], turn: Turn) -> None:
        variants.remove(turn)
        self._held -= turn.size


def _key(tenant: str, prefix: bytes) -> bytes:
    """Turns of different tenants never meet."""
    return hashlib.blake2b(prefix, digest_size=20, key=_hashed(tenant)).digest()


def _hashed(tenant: str) -> bytes:
    return hashlib.blake2b(tenant.encode(), digest_size=32).digest()


def _client_view(turn: Turn) -> tuple[str, str, str]:
    return turn.content, turn.reasoning, turn.calls


def _canonical(tool_calls: Sequence[Mapping[str, Any]] | None) -> str:
    """Calls by name and argument values: ids, key order and spacing do not distinguish them."""
    calls = []
    for call in tool_calls or ():
        function = call.get("function", call)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            with contextlib.suppress(ValueError):
                arguments = json.loads(arguments)
        calls.append([function.get("name"), arguments or {}])
    return json.dumps(calls, sort_keys=True)
