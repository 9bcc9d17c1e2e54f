"""Text to token ids and back.

Knows the checkpoint's tokenizer.json and nothing of chat templates. Ordinary text can never become
a control token here: the library's model is loaded without its added tokens, and this module places
them itself, only where the caller allows it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from .encoding_cache import EncodingCache
from .errors import CheckpointError


@dataclass(frozen=True, slots=True)
class ControlToken:
    """A token that stands for itself: `special` ones never show in decoded text."""

    id: int
    text: str
    special: bool


class Tokenizer:
    """Byte-level BPE with control tokens. Safe from any thread."""

    def __init__(self, library: tokenizers.Tokenizer, controls: Iterable[ControlToken]) -> None:
        self._library = library
        self._cache = EncodingCache()
        self._controls = {control.text: control for control in controls}
        self._special = {c.id: b"" for c in self._controls.values() if c.special}
        self._visible = {c.id: c.text.encode() for c in self._controls.values() if not c.special}
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        highest = max(
            max(library.get_vocab(with_added_tokens=False).values(), default=-1),
            max((c.id for c in self._controls.values()), default=-1),
        )
        self._vocab_size = highest + 1

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads `tokenizer.json`. Raises CheckpointError when it is missing, damaged or of a kind
        that is not byte-level."""
        path = Path(folder) / "tokenizer.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"{path}: cannot read the tokenizer: {error.strerror}") from error
        except ValueError as error:
            raise CheckpointError(f"{path}: not valid JSON: {error}") from error
        if not isinstance(document, dict):
            raise CheckpointError(f"{path}: a JSON object was expected")
        controls = [_control(entry, path) for entry in document.get("added_tokens") or ()]
        if not _is_byte_level(document.get("decoder")):
            raise CheckpointError(f"{path}: only byte-level tokenizers are supported")
        # The library matches added tokens in any text, even those it is told to encode as text
        # (special=False ones): it must not know them.
        document.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        try:
            library = tokenizers.Tokenizer.from_str(json.dumps(document))
        except Exception as error:  # the binding raises bare Exception
            raise CheckpointError(f"{path}: {error}") from error
        return cls(library, controls)

    @property
    def vocab_size(self) -> int:
        """One more than the highest token id (the network's output may be wider)."""
        return self._vocab_size

    @property
    def controls(self) -> Mapping[str, ControlToken]:
        """The control tokens by their text."""
        return self._controls

    @property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches the text of any control token, the longest first."""
        return self._pattern

    def token_id(self, text: str) -> int | None:
        """The id of a token given as the vocabulary spells it, None when there is no such token."""
        control = self._controls.get(text)
        return control.id if control else self._library.token_to_id(text)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """The ids of `text`. Control literals in it are ordinary text unless `allow_special`.

        Lone surrogates, which no UTF-8 text can hold, become U+FFFD.
        """
        if not allow_special:
            return list(self.encode_pieces([text])[0])
        literals = [self._controls[match.group()].id for match in self._pattern.finditer(text)]
        first, *rest = self.encode_pieces(self._pattern.split(text))
        ids = list(first)
        for literal, piece in zip(literals, rest, strict=True):
            ids.append(literal)
            ids.extend(piece)
        return ids

    def encode_pieces(self, pieces: Sequence[str]) -> list[list[int]]:
        """The ids of each piece of ordinary text on its own; other threads run meanwhile.

        Equal pieces may share one list: it is not to be changed.
        """
        texts = [without_surrogates(piece) for piece in pieces]
        known = {text: self._cache.get(text) for text in texts}
        unknown = [text for text, ids in known.items() if ids is None]
        # encode_batch_fast is the call that releases the GIL; encode() keeps it for the whole text.
        encodings = self._library.encode_batch_fast(unknown, add_special_tokens=False)
        for text, encoding in zip(unknown, encodings, strict=True):
            known[text] = ids = encoding.ids
            self._cache.put(text, ids)
        return [known[text] or [] for text in texts]

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes a token adds to the text: none for special tokens and for unknown ids."""
        if token in self._special:
            return b""
        literal = self._visible.get(token)
        if literal is not None:
            return literal
        piece = self._library.id_to_token(token) if token >= 0 else None
        return b"" if piece is None else _piece_bytes(piece)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without the special tokens; damaged UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def spelled(self, ids: Iterable[int]) -> str:
        """The text of `ids`, control tokens as they are written; damaged UTF-8 becomes U+FFFD."""
        names = {control.id: text.encode() for text, control in self._controls.items()}
        parts = (names.get(token) or self.token_bytes(token) for token in ids)
        return b"".join(parts).decode("utf-8", "replace")

    def detokenizer(self) -> Detokenizer:
        """A fresh incremental decoder for one sequence."""
        return Detokenizer(self)


class Detokenizer:
    """Decodes one token at a time; the joined deltas equal `Tokenizer.decode` of all ids."""

    __slots__ = ("_decoder", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The text that `token` makes certain: a character cut by the token border is held back."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        """What is held back when the sequence ends: U+FFFD for a cut character, mostly nothing."""
        return self._decoder.decode(b"", final=True)


def without_surrogates(text: str) -> str:
    """`text` with lone surrogates replaced by U+FFFD (and surrogate pairs joined)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _control(entry: object, path: Path) -> ControlToken:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: an added token is not an object")
    token, text = entry.get("id"), entry.get("content")
    if not isinstance(token, int) or not isinstance(text, str) or not text:
        raise CheckpointError(f"{path}: an added token lacks its id or its content")
    if any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
        raise CheckpointError(f"{path}: added token {text!r} strips its surroundings: unsupported")
    return ControlToken(token, text, bool(entry.get("special")))


def _is_byte_level(decoder: object) -> bool:
    return isinstance(decoder, dict) and decoder.get("type") == "ByteLevel"


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE spells each byte as a printable character: Latin-1 where that prints, else the
    next free one from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printing)]
    alphabet = {chr(byte): byte for byte in printing}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


_BYTE_OF = _byte_alphabet()


def _piece_bytes(piece: str) -> bytes:
    try:
        return bytes(map(_BYTE_OF.__getitem__, piece))
    except KeyError:
        return piece.encode()
