"""Reasoning as opaque text that only this server can read back: `encrypted_content`.

Encrypt, then authenticate, with what the standard library has: the text, compressed, is XORed with
the output of SHAKE-256 over a key and a random nonce, and a keyed BLAKE2b covers all of it together
with the tenant. So a client can neither read nor change it, nor use another tenant's. Whoever can
read the server's key can.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import zlib

KEY_BYTES = 32
_NONCE_BYTES = 16
_TAG_BYTES = 16
_VERSION = b"\x01"
_MOST_BYTES = 16 << 20  # of a text: a small input must not become a huge one


class Seal:
    """Seals and opens texts of one tenant with `key` (32 random bytes)."""

    def __init__(self, key: bytes, tenant: str) -> None:
        self._secret = hashlib.blake2b(b"text", key=key, digest_size=32).digest()
        self._proof = hashlib.blake2b(tenant.encode(), key=key, digest_size=32).digest()

    def close(self, text: str) -> str:
        """`text` as opaque ASCII; another one each time."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        plain = zlib.compress(text.encode("utf-8", "surrogatepass"), 6)
        sealed = _VERSION + nonce + self._crypt(plain, nonce)
        return base64.urlsafe_b64encode(sealed + self._tag(sealed)).decode()

    def open(self, sealed: str) -> str | None:
        """The text; None for anything that `close` did not make with this key and tenant."""
        try:
            raw = base64.urlsafe_b64decode(sealed.encode("ascii"))
        except ValueError:
            return None
        raw, tag = raw[:-_TAG_BYTES], raw[-_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(raw)) or raw[:1] != _VERSION:
            return None
        nonce, body = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
        inflate = zlib.decompressobj()
        plain = inflate.decompress(self._crypt(body, nonce), _MOST_BYTES)
        return plain.decode("utf-8", "surrogatepass") if inflate.eof else None

    def _crypt(self, data: bytes, nonce: bytes) -> bytes:
        stream = hashlib.shake_256(self._secret + nonce).digest(len(data))
        mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
        return mixed.to_bytes(len(data), "big")

    def _tag(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, key=self._proof, digest_size=_TAG_BYTES).digest()
