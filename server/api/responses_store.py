"""Responses that are kept, for `previous_response_id` and to be asked for again.

Knows what is kept of one, and that disk work has a thread of its own. A store that fails costs no
answer: what could not be kept is not there later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sqlite3
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from server.api.errors import ApiError
from server.api.responses_key import kept_key
from server.api.responses_seal import KEY_BYTES
from server.api.responses_table import Table

log = logging.getLogger(__name__)

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """A response as it was answered, and all items it answered: those of the responses before it,
    and those of its own input."""

    response: Json
    items: list[Json]


class Store:
    """`place`: a folder, "memory", or "off" for keeping nothing. Opened at the first use."""

    def __init__(self, place: Path | Literal["memory", "off"], most_bytes: int) -> None:
        self._folder = place if isinstance(place, Path) else None
        self.on = place != "off" and most_bytes > 0
        self._most_bytes = most_bytes
        self._table: Table | None = None
        self._key: bytes | None = None
        self._thread = ThreadPoolExecutor(1, "responses")

    async def load(self, id: str, tenant: str) -> Kept | None:
        """The response that was kept; None where this tenant has none of that id. Raises ApiError
        (500) where the store cannot be read."""
        return await self._told(lambda: self._load(id, tenant)) if self.on else None

    async def delete(self, id: str, tenant: str) -> bool:
        """Whether it was there. Raises ApiError (500)."""
        return await self._told(lambda: self._open().delete(id, tenant)) if self.on else False

    async def keep(self, kept: Kept, tenant: str) -> None:
        """Keeps a response. Trouble is logged."""
        if not self.on:
            return
        try:
            fits = await self._in_thread(lambda: self._keep(kept, tenant))
        except (sqlite3.Error, OSError) as error:
            log.warning("a response was not kept: %s", error)
            return
        if not fits:
            log.warning("a response was not kept: it is larger than all that may be")

    async def key(self) -> bytes:
        """The secret of this server for reasoning; one that lasts as long as the process where none
        can be kept."""
        if self._key is None:
            try:
                self._key = await self._in_thread(lambda: kept_key(self._folder, KEY_BYTES))
            except OSError as error:
                log.warning("encrypted reasoning cannot be read after a restart: %s", error)
                self._key = secrets.token_bytes(KEY_BYTES)
        return self._key

    async def _told(self, work: Callable[[], T]) -> T:
        try:
            return await self._in_thread(work)
        except (sqlite3.Error, OSError) as error:
            log.warning("the store of responses failed: %s", error)
            text = "The store of responses cannot be read."
            raise ApiError(text, code="store_failed", status=500, type="server_error") from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # In the thread.

    def _open(self) -> Table:
        if self._table is None:
            self._table = Table(self._folder, self._most_bytes)
        return self._table

    def _load(self, id: str, tenant: str) -> Kept | None:
        body = self._open().get(id, tenant)
        if body is None:
            return None
        try:
            response, items = json.loads(zlib.decompress(body))
        except (ValueError, zlib.error) as error:
            log.warning("the response %s is damaged, and left out: %s", id, error)
            return None
        return Kept(response, items)

    def _keep(self, kept: Kept, tenant: str) -> bool:
        return self._open().put(kept.response["id"], tenant, packed(kept))


def packed(kept: Kept) -> bytes:
    """As bytes, in which damage is found when they are read."""
    return zlib.compress(json.dumps([kept.response, kept.items]).encode(), 1)
