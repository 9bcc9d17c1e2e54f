"""Replays with servers in this process whose caches are known: perfect, none, silent, failing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from server.bench import peers, replay_report, trace
from server.bench.client import BenchError
from server.bench.conversation import Answer
from server.bench.ideal import PromptText
from server.bench.peers import PEERS
from server.bench.replay import Replay, Reply, read_reply, replay
from server.bench.replay_report import Sums, groups
from server.bench.servers import DEMO, ServerProcess
from tests.server.scripted_server import Script, serving

PROMPTS = PromptText(DEMO)


class Cached:
    """Renders what it is asked and answers with a thought; knows every prefix it has computed, as
    far as `perfect` lets it."""

    def __init__(self, *, perfect: bool, silent: bool = False) -> None:
        self.perfect, self.silent = perfect, silent
        self.seen: list[list[int]] = []
        self.asked = 0

    def ask(self, body: Mapping[str, Any]) -> Reply:
        self.asked += 1
        messages, tools = body["messages"], body.get("tools", [])
        options = body["chat_template_kwargs"]
        keep = bool(options.get("preserve_thinking"))
        thinking = options["enable_thinking"]
        prompt = PROMPTS.prompt(messages, tools, thinking=thinking, keep=keep)
        cached = max((shared(prompt[:-1], tokens) for tokens in self.seen), default=0)
        said = f"It is {self.asked}."
        answer = Answer(said, f"I look at {self.asked}." if thinking else "", (), complete=True)
        after = PROMPTS.after_answer(
            messages, tools, answer.message(), thinking=thinking, keep=keep, complete=True
        )
        self.seen += [prompt, after]
        reported = None if self.silent else cached if self.perfect else 0
        return Reply(answer, "stop", len(prompt), 8, reported)


def shared(a: list[int], b: list[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


@pytest.mark.parametrize("name", ["chat_plain", "chat_echoed", "tool_loop", "edit", "branch"])
def test_a_perfect_cache_computes_what_is_new(name: str) -> None:
    one = trace.find(name)
    found = replay(one, Cached(perfect=True), PROMPTS, limit=14, pause_s=0)
    sums = Sums.of(found.requests)
    assert (sums.failed, sums.computed) == (0, sums.new)
    assert sums.prompt == sums.rendered
    assert sums.per_new == 1.0
    assert sums.after_end >= sums.new


def test_no_cache_computes_everything() -> None:
    found = replay(trace.find("chat_plain"), Cached(perfect=False), PROMPTS, limit=10, pause_s=0)
    sums = Sums.of(found.requests)
    assert sums.share == 1.0
    assert sums.per_new is not None
    assert sums.per_new > 3


def test_a_silent_server_has_no_quotient() -> None:
    one = trace.find("chat_plain")
    found = replay(one, Cached(perfect=True, silent=True), PROMPTS, limit=3, pause_s=0)
    assert Sums.of(found.requests).per_new is None
    assert "does not say" in replay_report.table(one, {"it": found}, restarted=False)


def test_a_restart_comes_half_way_and_its_first_requests_count_apart() -> None:
    at: list[int] = []
    server = Cached(perfect=True)
    one = trace.find("sessions_12")
    found = replay(
        one, server, PROMPTS, limit=4, pause_s=0, restart=lambda: at.append(server.asked)
    )
    assert at == [24]
    assert groups(found.requests)["first after restart"].requests == 12
    assert [r.session for r in found.requests if r.restarted] == list(range(12))


def test_failures_are_counted_and_too_many_in_a_row_end_the_replay() -> None:
    class Failing(Cached):
        def ask(self, body: Mapping[str, Any]) -> Reply:
            if self.asked >= 3:
                raise BenchError("it broke")
            return super().ask(body)

    with pytest.raises(BenchError, match="5 requests in a row failed; the last: it broke"):
        replay(trace.find("chat_plain"), Failing(perfect=True), PROMPTS, pause_s=0)

    class Once(Cached):
        def ask(self, body: Mapping[str, Any]) -> Reply:
            reply = super().ask(body)
            if self.asked == 2:
                raise BenchError("it broke")
            return reply

    one = trace.find("chat_plain")
    found: Replay = replay(one, Once(perfect=True), PROMPTS, limit=5, pause_s=0)
    assert [r.error for r in found.requests] == [None, "it broke", None, None, None]
    assert "it broke" in replay_report.table(one, {"it": found}, restarted=False)
    assert replay_report.panel(one, {"it": found}).series["it"][-1][0] == 5


def test_a_reply_is_read_as_servers_write_it() -> None:
    message = {"content": None, "reasoning": "hm", "tool_calls": [{"id": "a"}]}
    body = {
        "choices": [{"message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }
    reply = read_reply(body, "reused=0")
    assert reply.answer == Answer("", "hm", [{"id": "a"}], complete=False)
    assert (reply.cached_tokens, reply.cache) == (None, "reused=0")


def test_savings_that_a_server_only_sums_up_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = iter([0, 10, 10, 35, 5])

    def get(url: str, **_: Any) -> httpx.Response:
        status = {"cache": {"tokens_saved": next(saved)}}
        return httpx.Response(200, json=status, request=httpx.Request("GET", url))

    monkeypatch.setattr(peers.httpx, "get", get)
    server = ServerProcess("vllm-mlx", [], 1)
    read = peers.cached_reader(PEERS["vllm-mlx"], server)
    assert read is not None
    assert [read() for _ in range(5)] == [0, 10, 0, 25, 5]  # the last one after a restart
    assert peers.cached_reader(PEERS["mlx-lm"], server) is None


def test_a_model_without_a_known_name_is_asked_for_it() -> None:
    with serving(Script(lambda _: iter(()))) as url:
        port = int(url.rsplit(":", 1)[1])
        assert ServerProcess("it", [], port).called() == "scripted"
        assert ServerProcess("it", [], port, model_name="given").called() == "given"
