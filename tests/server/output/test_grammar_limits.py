"""What a grammar may cost, and what becomes of one that costs more: it is refused before it is
queued, or ends its own answer and no other."""

from __future__ import annotations

from typing import Any

import pytest

from server.engine.request import GrammarSpec
from server.output import compiled_cache
from server.output.compiled_cache import CompiledCache
from server.output.constraint import Constraint, OutputRules
from server.output.grammars import MAX_BYTES, GrammarError
from server.output.vocabulary import Vocabulary
from tests.server.output.grammar_tools import GRAMMARS, TOKENIZER, answers

OPTIONAL = {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(3000)}}
NESTED: dict[str, Any] = {"type": "string"}
for _ in range(300):
    NESTED = {"type": "array", "items": NESTED}
STATES = "[a-z ]*(a|b)[a-z ]{2000}"  # every token read makes states that were not there


def compiled(kind: Any, value: Any) -> Constraint:
    spec = GrammarSpec(kind, value, "the_field")
    return GRAMMARS.compile(OutputRules(False, True, grammar=spec))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", {"enum": ["x" * 1000 + str(i) for i in range(300)]}),
        ("json_schema", OPTIONAL),
        ("json_schema", NESTED),
        ("json_schema", {"type": "integer", "multipleOf": 982451653}),
        ("json_schema", {"allOf": [{"pattern": f"^.*{c}.{{60}}$"} for c in "abcdefgh"]}),
        ("json_schema", {"$ref": "#"}),
        ("regex", "(" * 50_000 + "a" + ")" * 50_000),
        ("regex", "x" * (MAX_BYTES + 1)),
        ("regex", "("),
        ("lark", "start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
        ("lark", "start: " + " | ".join(f'"w{i}"' for i in range(20_000))),
        ("lark", "start: a\na: a"),
        ("lark", "start: missing"),
        ("gbnf", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
        ("gbnf", "root ::= missing"),
        ("choice", ["x" * 4096 + str(i) for i in range(100)]),
    ],
)
def test_what_is_too_large_or_leads_nowhere_is_refused_up_front(kind: Any, value: Any) -> None:
    with pytest.raises(GrammarError) as caught:
        compiled(kind, value)
    assert caught.value.param == "the_field"
    assert "<" not in str(caught.value).replace("<=", "")
    assert "\n" not in str(caught.value)


def test_an_ambiguous_grammar_ends_its_answer() -> None:
    constraint = compiled("lark", 'start: a\na: a a a | a a | "y" | ""')
    letter = TOKENIZER.encode("y")[0]
    for _ in range(500):
        constraint.mask()
        if constraint.failure is not None:
            break
        constraint.accept(letter)
    assert "items" in (constraint.failure or "")
    assert constraint.mask() is None


def write_until_it_fails(constraint: Constraint, length: int) -> str | None:
    for index in range(length):
        constraint.mask()
        constraint.accept(TOKENIZER.encode("ab c"[index % 4])[0])
        if constraint.failure is not None:
            return constraint.failure
    return None


def test_a_lexer_that_ran_out_of_states_fails_nobody_later() -> None:
    first, running = compiled("regex", STATES), compiled("regex", STATES)
    failure = write_until_it_fails(first, 2000)
    assert failure is not None
    assert "too many states" in failure
    assert write_until_it_fails(running, 20) is not None, "those that share it fail too"
    assert write_until_it_fails(compiled("regex", STATES), 20) is None


def test_a_grammar_in_use_for_long_is_compiled_anew() -> None:
    vocabulary = GRAMMARS._vocabulary
    cache = CompiledCache(vocabulary)
    matchers = [cache.lark('start: "a"') for _ in range(600)]
    assert 2 <= len({id(matcher) for matcher in matchers}) <= 4
    assert matchers[0] is matchers[100]


def test_ten_thousand_grammars_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number and by size; those used last stay."""
    monkeypatch.setattr(compiled_cache, "_KEPT", 30)
    monkeypatch.setattr(compiled_cache, "_KEPT_BYTES", 5000)
    cache = CompiledCache(GRAMMARS._vocabulary)
    for size in (3, 300):
        for index in range(100):
            cache.lark(f'start: "{index}{"x" * size}"')
            assert len(cache._kept) <= 30
            assert cache._bytes == sum(map(len, cache._kept)) <= 5000
    assert 1 <= len(cache._kept) < 30
    assert f"99{'x' * 300}" in next(reversed(cache._kept))
    cache.forget()
    assert (len(cache._kept), cache._bytes) == (0, 0)


@pytest.mark.parametrize("text", ["\x7f", "a\x00b", "é\u2028", '\\ "', "😀x", "tab\tnl\n", " "])
def test_a_choice_may_be_any_text(text: str) -> None:
    constraint = compiled("choice", [text, "other"])
    assert answers(constraint.copy(), text)
    assert answers(constraint.copy(), "other")
    assert not answers(constraint.copy(), f"{text}!")


def test_the_first_allowed_token() -> None:
    vocabulary: Vocabulary = GRAMMARS._vocabulary
    matcher = vocabulary.matcher(_regex("é"))
    token = vocabulary.first_allowed(matcher)
    assert token is not None
    assert "é".encode().startswith(TOKENIZER.token_bytes(token))
    assert vocabulary.allowed(matcher).view("uint32")[token // 32] >> (token % 32) & 1


def _regex(text: str) -> str:
    import llguidance

    return llguidance.LLMatcher.grammar_from_regex(text)
