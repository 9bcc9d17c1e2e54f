"""The soak's judgement: what counts as lost, doubled, leaked."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench.soak import Reading, Soak, Tally, compare, judge, references, requests, soak
from server.bench.streams import Stream, StreamClient
from tests.server.scripted_server import Script, serving, whole_answer

MIB = 1 << 20


def text(seed: int, length: int = 200) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(length))


@given(st.integers(0, 10_000), st.integers(0, 140), st.integers(1, 40))
def test_a_piece_that_is_missing_or_twice_is_found(seed: int, place: int, slip: int) -> None:
    whole = text(seed)
    assert compare(whole, whole) == "same"
    assert compare(whole[:place] + whole[place + slip :], whole) == "lost"
    assert compare(whole[: place + slip] + whole[place:], whole) == "doubled"
    assert compare(whole[: 200 - slip], whole) == "lost"
    assert compare(whole + whole[-slip:], whole) == "doubled"


def test_another_turn_of_words_is_neither() -> None:
    assert compare(text(1)[:50] + text(2), text(1)) == "other words"


def answer(said: str, tokens: int | None = 9, **rest: Any) -> Stream:
    return Stream(arrivals=[0.0] * len(said), text=said, completion_tokens=tokens, **rest)


def test_each_answer_is_counted_once() -> None:
    tally, reference = Tally(), answer("one two three", 9)
    judge(tally, answer("one two three", 9), reference)
    judge(tally, answer("one two three", 10), reference)
    judge(tally, answer("one t", None, cut=True), reference)
    judge(tally, answer("one ", 4), reference)
    judge(tally, answer("", None, status=429), reference)
    judge(tally, answer("one", None, error="it broke"), reference)
    assert (tally.whole, tally.hung_up, tally.same, tally.lost) == (3, 1, 3, 1)
    assert (tally.wrong_length, tally.refused, tally.errors) == (1, 1, ["it broke"])


def finished(rss: tuple[int, int], **idle: Any) -> Soak:
    values = [rss[0]] * 20 + [rss[1]] * 20
    readings = [Reading(float(i), v * MIB, 10 * MIB) for i, v in enumerate(values)]
    return Soak(64, 60.0, Tally(whole=1, same=1), readings, idle)


def test_memory_that_grows_and_requests_that_stay_are_failures() -> None:
    assert finished((200, 210), active=0, queued=0).failures == []
    assert "resident memory grew" in finished((200, 300)).failures[0]
    assert finished((200, 200), active=2).failures == ["active is 2 at the end"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_soak_of_a_scripted_server(broken: bool) -> None:
    """The server answers by the seed; the broken one leaves out a piece under load."""
    asked = 0

    def reply(body: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        said = text(body["seed"], 60)
        if broken and asked > 4:
            said = said[:20] + said[23:]
        return whole_answer(said)

    async def check(url: str) -> Soak:
        bodies = requests(4, seed=3, banned=[7])
        async with StreamClient(url) as client:
            answers = await references(client, bodies)
            return await soak(client, bodies, answers, streams=4, seconds=1.0, pid=None, seed=1)

    with serving(Script(reply)) as url:
        found = asyncio.run(check(url))
    assert found.tally.whole > 4
    assert found.tally.hung_up > 0
    if broken:
        # Of what was hung up on right behind the hole, nothing can be said.
        assert found.tally.lost >= found.tally.whole
        assert found.tally.doubled == 0
        assert any("lost text" in why for why in found.failures)
    else:
        assert found.tally.same == found.tally.whole + found.tally.hung_up
        assert found.failures == []
