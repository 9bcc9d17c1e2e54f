"""JSON Schemas through the masks, without a model: is each refused up front, or does its mask
accept every valid instance and refuse every invalid one, and what does that cost.

Knows files in JSONSchemaBench's form ({"schema": ..., "tests": [{"data": ..., "valid": ...}]}) and
how the server compiles what an answer has to match. Unlike the other benchmarks this one measures a
part of the server and not what comes over HTTP. Times are those of the thread on its CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.engine.request import GrammarSpec
from server.output.constraint import Constraint, OutputRules
from server.output.grammars import GrammarError, Grammars
from server.output.vocabulary import WORD, Vocabulary

_ENDS = ("<|im_end|>", "<|endoftext|>")
_SHARES = (0.5, 0.9, 0.99, 1.0)


@dataclass(slots=True)
class Tally:
    """What came of all schemas. refused: the reasons by file; wrong: instances that the mask got
    wrong, in words; the times in microseconds."""

    schemas: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    valid: int = 0
    invalid: int = 0
    wrong: list[str] = field(default_factory=list)
    compile_us: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)
    accept_us: list[float] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "schemas": self.schemas,
            "enforced": self.schemas - len(self.refused),
            "refused": len(self.refused),
            "valid_instances": self.valid,
            "invalid_instances": self.invalid,
            "wrong": len(self.wrong),
            "compile_us": _spread(self.compile_us),
            "mask_us": _spread(self.mask_us),
            "accept_us": _spread(self.accept_us),
            "refusals": self.refused,
            "wrong_instances": self.wrong,
        }


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    ordered = sorted(values)
    most = len(ordered) - 1
    told = {"count": len(ordered), "mean": round(sum(ordered) / len(ordered), 1)}
    names = ("p50", "p90", "p99", "max")
    return told | {
        name: round(ordered[min(most, int(len(ordered) * share))], 1)
        for name, share in zip(names, _SHARES, strict=True)
    }


class Checker:
    """Tries schemas on the vocabulary of `tokenizer_json`. Raises ValueError where that has no
    token which ends an answer."""

    def __init__(self, tokenizer_json: str) -> None:
        document = json.loads(tokenizer_json)
        added = {one["content"]: one["id"] for one in document.get("added_tokens") or ()}
        ends = [added[text] for text in _ENDS if text in added]
        if not ends:
            raise ValueError(f"the tokenizer has none of {', '.join(_ENDS)}")
        self._end = ends[0]
        self.size = 1 + max([*added.values(), *document["model"]["vocab"].values()])
        self._vocabulary = Vocabulary(tokenizer_json, vocab_size=self.size, eos=self._end)
        self._grammars = Grammars(
            tokenizer_json,
            vocab_size=self.size,
            eos=self._end,
            think_end=None,
            call_start=None,
            call_end=None,
        )
        self.tally = Tally()

    def check(self, name: str, case: Mapping[str, Any]) -> None:
        """Adds what comes of the schema and the instances of `case`."""
        tally = self.tally
        tally.schemas += 1
        spec = GrammarSpec("json_schema", case["schema"], "schema")
        began = time.thread_time()
        try:
            rules = OutputRules(thinking=False, opened=True, grammar=spec)
            constraint = self._grammars.compile(rules)
        except GrammarError as error:
            tally.refused[name] = str(error)
            return
        tally.compile_us.append((time.thread_time() - began) * 1e6)
        orders = [list(order) for order in _property_maps(case["schema"])]
        for test in case["tests"]:
            said = [
                self._accepted(constraint.copy(), text) for text in spellings(test["data"], orders)
            ]
            tally.valid += bool(test["valid"])
            tally.invalid += not test["valid"]
            # An answer is written in the schema's order of keys; an instance may be in another.
            if any(said) is not bool(test["valid"]):
                kind = "valid" if test["valid"] else "invalid"
                tally.wrong.append(f"{name}: {kind}: {json.dumps(test['data'])[:200]}")

    def _accepted(self, constraint: Constraint, text: str) -> bool:
        """Whether the masks allow `text` and then the end."""
        clock, tally = time.thread_time, self.tally
        for token in [*self._vocabulary.tokens(text.encode()), self._end]:
            began = clock()
            mask = constraint.mask()
            read = clock()
            tally.mask_us.append((read - began) * 1e6)
            if constraint.failure is not None:
                tally.wrong.append(f"failed: {constraint.failure}")
                return False
            if mask is None or not mask.view("uint32")[token // WORD] >> (token % WORD) & 1:
                return False
            began = clock()
            constraint.accept(token)
            tally.accept_us.append((clock() - began) * 1e6)
        return True


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file of `folder` by its name. Raises ValueError for one of another form."""
    for path in sorted(folder.glob("*.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(case, dict) or "schema" not in case or "tests" not in case:
            raise ValueError(f"{path.name} has no schema and tests")
        yield path.name, case


def spellings(data: Any, orders: list[list[str]]) -> Iterable[str]:
    """Ways to write `data`: with its own order of keys and the schema's, with 75.0 as 75, on one
    line and on several."""
    values = [data, _ordered(data, orders), _plain(_ordered(data, orders))]
    texts = (json.dumps(v, ensure_ascii=False, indent=i) for v in values for i in (None, 2))
    return dict.fromkeys(texts)


def _property_maps(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield properties
        for value in schema.values():
            yield from _property_maps(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _property_maps(value)


def _ordered(data: Any, orders: list[list[str]]) -> Any:
    """`data` with the keys of its objects in the order of the schema that knows most of them."""
    if isinstance(data, list):
        return [_ordered(item, orders) for item in data]
    if not isinstance(data, dict):
        return data
    best = max(orders, key=lambda order: len(data.keys() & set(order)), default=[])
    place = {key: index for index, key in enumerate(best)}
    keys = sorted(data, key=lambda key: place.get(key, len(place)))
    return {key: _ordered(data[key], orders) for key in keys}


def _plain(data: Any) -> Any:
    if isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, list):
        return [_plain(item) for item in data]
    return {key: _plain(item) for key, item in data.items()} if isinstance(data, dict) else data
