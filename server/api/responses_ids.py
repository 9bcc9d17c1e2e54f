"""Ids of responses and of the items they are made of.

An item's id tells which response it is of, so that items which a client sends back are known to be
of one turn, and so that a reference to an item leads to the response that has it.
"""

from __future__ import annotations

import re
import uuid

_PREFIXES = {"reasoning": "rs", "message": "msg", "function_call": "fc"}
_ITEM = re.compile(r"(?:rs|msg|fc)_([0-9a-f]{32})[0-9a-f]{4}")


def new_response_id() -> str:
    return f"resp_{uuid.uuid4().hex}"


def item_id(response_id: str, kind: str, index: int) -> str:
    """The id of output item `index` of a response; `kind` is its type."""
    return f"{_PREFIXES[kind]}_{response_id.removeprefix('resp_')}{index:04x}"


def input_item_id(kind: str) -> str:
    """An id for an item that came without one."""
    return f"{_PREFIXES.get(kind, 'item')}_{uuid.uuid4().hex}"


def response_of(item: object) -> str | None:
    """The response that an item's id names; None for an id that `item_id` did not make."""
    found = _ITEM.fullmatch(item) if isinstance(item, str) else None
    return f"resp_{found[1]}" if found else None
