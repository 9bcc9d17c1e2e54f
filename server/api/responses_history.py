"""What a request builds on: the items of an earlier response, and items it only refers to.

Knows the store; the items themselves are read elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from server.api.errors import ApiError
from server.api.responses_ids import response_of
from server.api.responses_store import Store

log = logging.getLogger(__name__)

Json = dict[str, Any]


async def items_before(store: Store, previous: str | None, tenant: str) -> list[Json]:
    """All items up to the end of response `previous`. Raises ApiError."""
    if previous is None:
        return []
    kept = await store.load(previous, tenant)
    if kept is None:
        why = "it was not stored, or is no longer" if store.on else "this server stores none"
        raise ApiError(
            f"Previous response with id {previous!r:.120} not found: {why}.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return [*kept.items, *kept.response["output"]]


async def resolved(items: Sequence[Any], store: Store, tenant: str) -> list[Any]:
    """`items` with those that references name in place of the references. One to reasoning that is
    not there is left out, as an answer is possible without it. Raises ApiError for another one."""
    known: dict[str, Mapping[str, Any]] = {}
    found: list[Any] = []
    for index, item in enumerate(items):
        if not isinstance(item, Mapping) or not _refers(item):
            found.append(item)
            continue
        name = item.get("id")
        response = response_of(name)
        if response is not None and name not in known:
            kept = await store.load(response, tenant)
            known |= {item["id"]: item for item in (kept.response["output"] if kept else ())}
        if isinstance(name, str) and name in known:
            found.append(known[name])
        elif isinstance(name, str) and name.startswith("rs_"):
            log.warning("left out a reference to reasoning that is not stored")
        else:
            raise ApiError(
                f"Item with id {name!r:.120} not found.",
                param=f"input[{index}].id",
                code="not_found",
                status=404,
            )
    return found


def _refers(item: Mapping[str, Any]) -> bool:
    """A reference's type may be left out; an id alone is nothing else."""
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "id" in item and "role" not in item)
