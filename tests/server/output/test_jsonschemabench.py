"""Real schemas: each is refused up front, or its mask accepts every valid instance and refuses
every invalid one. A sample of JSONSchemaBench; MXSERVE_JSONSCHEMABENCH names a folder with more."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from model.loading import DEMO_FOLDER
from server.engine.request import GrammarSpec
from server.output.constraint import Constraint, OutputRules
from server.output.grammars import GrammarError, Grammars
from server.output.vocabulary import WORD, Vocabulary

SAMPLE = Path(__file__).parent / "jsonschemabench"
TOKENIZER = (DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8")
EOS, VOCABULARY = 2037, 2048
IDS = {"think_end": None, "call_start": None, "call_end": None}


@dataclass
class Count:
    schemas: int = 0
    refused: int = 0
    valid: int = 0
    invalid: int = 0
    wrong: list[str] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)  # of refusals, by their first words
    compile_us: list[float] = field(default_factory=list)
    mask_us: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(TOKENIZER, vocab_size=VOCABULARY, eos=EOS, **IDS)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENIZER, vocab_size=VOCABULARY, eos=EOS)


def accepted(constraint: Constraint, tokens: list[int], count: Count) -> bool:
    """Whether the masks allow `tokens` and then the end."""
    for token in [*tokens, EOS]:
        began = time.perf_counter()
        mask = constraint.mask()
        count.mask_us.append((time.perf_counter() - began) * 1e6)
        assert constraint.failure is None, constraint.failure
        if mask is None or not mask.view("uint32")[token // WORD] >> (token % WORD) & 1:
            return False
        constraint.accept(token)
    return True


def check(path: Path, grammars: Grammars, vocabulary: Vocabulary, count: Count) -> None:
    case: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    count.schemas += 1
    spec = GrammarSpec("json_schema", case["schema"], "schema")
    began = time.perf_counter()
    try:
        constraint = grammars.compile(OutputRules(thinking=False, opened=True, grammar=spec))
    except GrammarError as error:
        count.refused += 1
        reason = " ".join(str(error).split()[:3])
        count.reasons[reason] = count.reasons.get(reason, 0) + 1
        return
    count.compile_us.append((time.perf_counter() - began) * 1e6)
    orders = [list(order) for order in property_maps(case["schema"])]
    for test in case["tests"]:
        said = {
            text: accepted(constraint.copy(), vocabulary.tokens(text.encode()), count)
            for text in spellings(test["data"], orders)
        }
        # An answer is written in the schema's order of keys; an instance may be in another.
        if any(said.values()) is not test["valid"]:
            count.wrong.append(f"{path.name}: {test['valid']} {next(iter(said))[:200]}")
        count.valid += test["valid"]
        count.invalid += not test["valid"]


def property_maps(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield properties
        for value in schema.values():
            yield from property_maps(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from property_maps(value)


def ordered(data: Any, orders: list[list[str]]) -> Any:
    """`data` with the keys of its objects in the order of the schema that knows most of them: an
    answer is written in the schema's order, others after it."""
    if isinstance(data, list):
        return [ordered(item, orders) for item in data]
    if not isinstance(data, dict):
        return data
    best = max(orders, key=lambda order: len(data.keys() & set(order)), default=[])
    place = {key: index for index, key in enumerate(best)}
    keys = sorted(data, key=lambda key: place.get(key, len(place)))
    return {key: ordered(data[key], orders) for key in keys}


def plain(data: Any) -> Any:
    """`data` with 75.0 as 75."""
    if isinstance(data, float) and data.is_integer():
        return int(data)
    if isinstance(data, list):
        return [plain(item) for item in data]
    return {key: plain(item) for key, item in data.items()} if isinstance(data, dict) else data


def spellings(data: Any, orders: list[list[str]]) -> list[str]:
    values = [data, ordered(data, orders), plain(ordered(data, orders))]
    texts = (json.dumps(v, ensure_ascii=False, indent=i) for v in values for i in (None, 2))
    return list(dict.fromkeys(texts))


def test_every_schema_is_refused_up_front_or_enforced(
    grammars: Grammars, vocabulary: Vocabulary
) -> None:
    folder = Path(os.environ.get("MXSERVE_JSONSCHEMABENCH", SAMPLE))
    count = Count()
    for path in sorted(folder.glob("*.json")):
        check(path, grammars, vocabulary, count)
    print(
        f"\n{count.schemas} schemas, {count.refused} refused, {count.valid} valid and "
        f"{count.invalid} invalid instances, {len(count.wrong)} wrong; {count.reasons}"
    )
    for name, values in (("compile", count.compile_us), ("mask", count.mask_us)):
        values.sort()
        middle, high = values[len(values) // 2], values[int(len(values) * 0.99)]
        print(f"{name}: p50 {middle:.0f} us, p99 {high:.0f} us")
    assert count.schemas
    assert count.wrong == []
    assert count.refused < count.schemas / 2
