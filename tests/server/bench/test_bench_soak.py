"""The soak's judgement: what counts as lost, doubled, leaked."""

from __future__ import annotations

import asyncio
import json
import os
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench import soak as soaking
from server.bench.ideal import end_tokens
from server.bench.process_figures import ProcessFigures, process_figures
from server.bench.servers import DEMO, own_server
from server.bench.soak import Plan, references, requests, soak
from server.bench.soak_page import soak_page, soak_panels
from server.bench.soak_report import Reading, Soak
from server.bench.soak_tally import Tally, compare, judge
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
    assert (tally.wrong_length, tally.refused, tally.errors) == (1, 1, {"it broke": 1})
    assert tally.requests == 6


def test_who_cancels_or_is_interrupted_has_got_the_beginning() -> None:
    tally, reference = Tally(), answer("one two three", 9)
    judge(tally, answer("one t", 3), reference, "responses", cancelled=True)
    judge(tally, answer("one two", None, error="ReadError: x"), reference, killed=True)
    judge(tally, answer("one two three", 9), reference, killed=True)
    judge(tally, answer("", None, error="ReadError: x"), reference)
    judge(tally, answer("one two three, and then", 3), reference, cancelled=True)
    assert (tally.cancelled, tally.interrupted, tally.whole) == (2, 1, 1)
    assert tally.errors == {"ReadError": 1}
    assert tally.dialects == {"responses": 1, "chat": 4}
    assert (tally.same, tally.doubled) == (3, 1)


def finished(rss: tuple[int, int], **idle: Any) -> Soak:
    values = [rss[0]] * 20 + [rss[1]] * 20
    readings = [Reading(float(i), v * MIB, 10 * MIB) for i, v in enumerate(values)]
    return Soak(64, 60.0, Tally(whole=1, same=1), readings, idle)


def test_memory_that_grows_and_requests_that_stay_are_failures() -> None:
    assert finished((200, 210), active=0, queued=0).failures == []
    assert "resident memory grew" in finished((200, 300)).failures[0]
    assert finished((200, 200), active=2).failures == ["active is 2 at the end"]


def steady(minutes: int, grows_mib: float, **more: Any) -> Soak:
    """A soak whose memory grows by so many MiB a minute, a reading every ten seconds."""
    readings = [
        Reading(10.0 * i, round((300 + grows_mib * i / 6) * MIB), None, 20, 12, 1)
        for i in range(6 * minutes)
    ]
    before = [Reading(-5.0, 9000 * MIB, None, 20, 12, 0)] * 30  # of the process that was killed
    return Soak(64, 60.0 * minutes, Tally(whole=1, same=1), before + readings, {}, kills=1, **more)


def test_memory_that_grows_slowly_is_seen_in_a_long_soak() -> None:
    assert steady(60, 0.5).failures == []
    assert steady(60, 0.5).slope == pytest.approx(0.5, abs=0.01)
    [why] = steady(20, 1.5).failures
    assert why == "resident memory grew by 1.50 MiB a minute"
    assert steady(5, 1.5).failures == [], "too short to tell it from warming up"


def test_files_and_threads_that_stay_are_failures() -> None:
    few, many = ProcessFigures(1, 20, 12), ProcessFigures(1, 60, 60)
    assert steady(5, 0, before=few, after=few).failures == []
    assert steady(5, 0, before=few, after=many).failures == [
        "60 files at the end, 20 before", "60 threads at the end, 12 before",
    ]  # fmt: skip


def test_the_page_says_what_was_found() -> None:
    found = steady(20, 1.5)
    found.tally.sent("chat")
    found.tally.fail("HTTP 500: broken")
    page = soak_page(found)
    assert "1 requests (chat 1)" in page
    assert "HTTP 500: 1" in page
    assert "+1.50 MiB a minute" in page
    assert "FAILED: resident memory grew" in page
    assert soak_panels(found)
    assert json.dumps(found.as_json())


def test_figures_of_this_process() -> None:
    with open(__file__, encoding="utf-8"):
        figures = process_figures(os.getpid())
    assert figures.rss is not None
    assert figures.rss > MIB
    assert figures.files is not None
    assert figures.files >= 3
    assert (figures.threads or 0) >= 1
    assert process_figures(2**22 + 1) == ProcessFigures()


@pytest.mark.parametrize("broken", [False, True])
def test_a_soak_of_a_scripted_server(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers by the seed; the broken one leaves out a piece under load."""
    monkeypatch.setattr(soaking, "SETTLE_S", 0.0)
    asked = 0

    def reply(body: dict[str, Any]) -> Any:
        nonlocal asked
        asked += 1
        said = text(body["seed"], 60)
        if broken and asked > 4:
            said = said[:20] + said[23:]
        return whole_answer(said)

    async def check(url: str) -> Soak:
        asked = requests(4, seed=3, banned=[7], dialects=["chat"])
        async with StreamClient(url) as client:
            answers = await references(client, asked)
            return await soak(client, asked, answers, Plan(4, 1.0, seed=1), pid=None)

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


@pytest.mark.timeout(120)
def test_a_soak_of_a_server_that_is_killed_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo, in all dialects, with cancels, over-long prompts and people who leave."""
    monkeypatch.setattr(soaking, "SETTLE_S", 0.0)  # so kept connections still count as files

    async def check(server: Any) -> Soak:
        def restart() -> int | None:
            server.restart(kill=True)
            return server.pid

        asked = requests(8, seed=5, banned=end_tokens(DEMO))
        # With this seed the first six requests are in all dialects, and one is over-long.
        plan = Plan(6, 3.0, seed=10, cancels=0.5, over_long=0.1, kill_at_s=1.5)
        async with StreamClient(server.url) as client:
            answers = await references(client, asked)
            return await soak(client, asked, answers, plan, pid=server.pid, restart=restart)

    flags = ("--response-store", "memory")
    with own_server(None, flags=flags) as server:
        found = asyncio.run(check(server))
    tally = found.tally
    assert [why for why in found.failures if " files at the end" not in why] == []
    assert found.kills == 1
    assert set(tally.dialects) == {"chat", "responses", "messages", "completions", "over-long"}
    assert tally.whole
    assert tally.interrupted
    assert tally.over_long
    assert tally.refused == 0
    # One of those that are too long may have been under way when the server was killed.
    assert tally.other_words + tally.same == tally.requests - tally.dialects["over-long"]
    assert {reading.process for reading in found.readings} == {0, 1}
