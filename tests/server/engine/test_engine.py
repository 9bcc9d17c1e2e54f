"""The engine on a deterministic model: answers, limits, caching, choices, budgets, cancelling."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import pytest

from server.engine import Engine, Thinking
from server.engine.errors import ContextOverflow, Draining, InvalidRequest, QueueFull
from server.engine.events import PrefillProgress, ReasoningDelta, Started


def test_importing_the_engine_does_not_load_mlx():
    code = "import server.engine, sys; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_answer_and_its_figures(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "say hello")
        assert told.content == "hello"
        assert isinstance(told.events[0], Started)
        assert any(isinstance(event, PrefillProgress) for event in told.events)
        (finished,) = told.finished
        assert finished.reason == "stop"
        assert finished.usage.prompt_tokens == len("say hello") + 2
        assert finished.usage.completion_tokens == len("hello") + 1
        assert finished.usage.reasoning_tokens == finished.usage.cached_tokens == 0
        times = finished.timings
        assert min(times.queue_s, times.prefill_s, times.ttft_s, times.decode_s) >= 0
        assert lab.turns.kept[0][2] == "hello"
        assert engine.info.defaults.temperature == 0.6
        assert engine.health().status == "ready"
        assert engine.info.id == "fake"

    lab.run(check)


def test_a_growing_chat_prefills_only_what_is_new(lab: Any):
    async def check(engine: Engine) -> None:
        messages = [{"role": "system", "content": "s" * 700}]
        for turn in range(6):
            messages.append({"role": "user", "content": f"turn {turn}: say yes {turn}"})
            told = await lab.ask(engine, messages)
            usage = told.finished[0].usage
            assert told.content == f"yes {turn}"
            new = len(messages[-1]["content"]) + 2
            if turn:
                # The last answer's text and its end, and the new message, are new; eos is not
                # how this template ends a turn.
                assert usage.prompt_tokens - usage.cached_tokens <= new + len("yes 0") + 2
            messages.append({"role": "assistant", "content": told.content})
        other = [messages[0], {"role": "user", "content": "say else"}]
        usage = (await lab.ask(engine, other)).finished[0].usage
        assert usage.cached_tokens == 701, "sessions share the head"

    lab.run(check)


def test_the_same_prompt_again_prefills_nothing_but_its_generation_prompt(lab: Any):
    async def check(engine: Engine) -> None:
        first = await lab.ask(engine, "say again")
        lab.model.prefilled.clear()
        second = await lab.ask(engine, "say again")
        assert second.content == first.content == "again"
        usage = second.finished[0].usage
        assert usage.cached_tokens == usage.prompt_tokens - 1
        assert lab.model.prefilled == []

    lab.run(check)


def test_without_a_cache_nothing_is_reused(lab: Any):
    async def check(engine: Engine) -> None:
        for _ in range(2):
            told = await lab.ask(engine, "say again")
            assert told.finished[0].usage.cached_tokens == 0
        assert engine.health().cache_bytes == 0

    lab.run(check, prompt_cache_bytes=0)


def test_choices_share_one_prefill_and_differ_by_seed(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "x" * 300 + "say my seed is $", n=3, seed=4)
        by_choice = {
            finished.choice: "".join(
                e.text
                for e in told.events
                if getattr(e, "choice", None) == finished.choice and hasattr(e, "text")
            )
            for finished in told.finished
        }
        assert by_choice == {0: "my seed is 4", 1: "my seed is 5", 2: "my seed is 6"}
        assert sum(lab.model.prefilled) == 300 + len("say my seed is $") + 1

    lab.run(check)


def test_any_seed_is_brought_into_the_range_of_seeds(lab: Any):
    async def check(engine: Engine) -> None:
        assert (await lab.ask(engine, "say $", seed=-1)).content == str((2**64 - 1) % 10)
        assert (await lab.ask(engine, "say $", seed=2**64 + 3)).content == "3"

    lab.run(check)


def test_without_a_seed_one_is_drawn(lab: Any):
    async def check(engine: Engine) -> None:
        said = {(await lab.ask(engine, "say $")).content for _ in range(40)}
        assert len(said) > 3

    lab.run(check)


def test_max_tokens_and_stop_strings(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "say abcdef", max_tokens=3)
        assert (told.content, told.finished[0].reason) == ("abc", "length")
        told = await lab.ask(engine, "say abcdef", stop=("de",))
        assert (told.content, told.finished[0].reason) == ("abc", "stop")
        kept = [turn[2] for turn in lab.turns.kept]
        assert kept == ["abc"], "an answer cut by a stop string does not come back whole"

    lab.run(check)


def test_the_context_is_the_limit_when_nothing_is_asked(lab: Any):
    lab.model.context_length = 40

    async def check(engine: Engine) -> None:
        text = "say " + "z" * 30
        told = await lab.ask(engine, text)
        usage = told.finished[0].usage
        assert told.finished[0].reason == "length"
        assert usage.prompt_tokens + usage.completion_tokens == 40
        with pytest.raises(ContextOverflow) as overflow:
            await lab.ask(engine, "say " + "z" * 34)
        assert (overflow.value.limit, overflow.value.prompt_tokens) == (40, 40)
        told = await lab.ask(engine, "say " + "z" * 33)
        assert told.finished[0].usage.completion_tokens == 1
        with pytest.raises(ContextOverflow) as overflow:
            await lab.ask(engine, text, max_tokens=5)
        assert overflow.value.requested == 5
        assert "maximum context length is 40 tokens" in str(overflow.value)

    lab.run(check)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ("",)}, "stop"),
        ({"timeout": 0.0}, "timeout"),
        ({"thinking": Thinking(True, -1)}, "thinking_budget"),
    ],
)
def test_what_cannot_run_is_refused(lab: Any, fields: dict[str, Any], param: str):
    async def check(engine: Engine) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await lab.ask(engine, "say x", **fields)
        assert refused.value.param == param

    lab.run(check)


def test_messages_that_cannot_be_rendered_are_refused(lab: Any):
    async def check(engine: Engine) -> None:
        with pytest.raises(InvalidRequest, match="no role wizard"):
            await lab.ask(engine, [{"role": "wizard", "content": "x"}])
        with pytest.raises(InvalidRequest, match="must not be empty"):
            await lab.ask(engine, [])

    lab.run(check)


def test_reasoning_is_told_apart_and_counted(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "say hm, yes.|done", thinking=Thinking())
        assert (told.reasoning, told.content) == ("hm, yes.", "done")
        usage = told.finished[0].usage
        assert usage.reasoning_tokens == len("hm, yes.")
        assert usage.completion_tokens == len("hm, yes.") + 1 + len("done") + 1
        assert not usage.thinking_cut

    lab.run(check)


def test_a_spent_budget_closes_the_thought_at_the_end_of_its_sentence(lab: Any):
    async def check(engine: Engine) -> None:
        thought = "one two. three four. five six. " + "seven " * 20
        told = await lab.ask(engine, f"say {thought}|never", thinking=Thinking(True, 15))
        assert told.reasoning == "one two. three four.\nEnough."
        assert told.content == "cut."
        usage = told.finished[0].usage
        assert usage.thinking_cut
        assert usage.reasoning_tokens == len("one two. three four.\nEnough.")
        assert told.finished[0].reason == "stop"

    lab.run(check)


def test_a_thought_without_sentence_ends_is_closed_after_the_grace(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, f"say {'a' * 200}|never", thinking=Thinking(True, 16))
        assert told.reasoning == "a" * (16 + 6) + "\nEnough."
        assert told.content == "cut."

    lab.run(check)


def test_a_thought_within_its_budget_is_left_alone(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "say short.|yes", thinking=Thinking(True, 50))
        assert (told.reasoning, told.content) == ("short.", "yes")
        assert not told.finished[0].usage.thinking_cut

    lab.run(check)


def test_max_tokens_inside_the_thought_is_a_length(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(
            engine, f"say {'a' * 50}|no", thinking=Thinking(True, 10), max_tokens=12
        )
        assert told.finished[0].reason == "length"
        assert told.finished[0].usage.completion_tokens == 12
        assert not told.finished[0].usage.thinking_cut
        assert told.content == ""

    lab.run(check)


def test_a_budget_of_nothing_is_no_thinking(lab: Any):
    async def check(engine: Engine) -> None:
        told = await lab.ask(engine, "say plain", thinking=Thinking(True, 0))
        assert (told.reasoning, told.content) == ("", "plain")

    lab.run(check)


def test_many_at_once_all_get_their_own_answer(lab: Any):
    async def check(engine: Engine) -> None:
        asked = [f"{'p' * (i * 37)} say answer {i}" for i in range(20)]
        told = await asyncio.gather(*(lab.ask(engine, text) for text in asked))
        assert [t.content for t in told] == [f"answer {i}" for i in range(20)]
        assert 1 < lab.model.most_rows <= 3

    lab.run(check, max_batch=3)


def test_a_full_queue_refuses_with_a_time_to_come_back(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        held = [await engine.submit(lab.request("say a"))]
        await lab.until(lambda: engine.health().active == 1)
        held += [await engine.submit(lab.request("say a")) for _ in range(2)]
        with pytest.raises(QueueFull) as full:
            await engine.submit(lab.request("say b"))
        assert 1 <= full.value.retry_after <= 60
        assert engine.health().queued == 2
        lab.model.gate.set()
        assert [(await lab.read(stream)).content for stream in held] == ["a"] * 3
        assert (await lab.ask(engine, "say b")).content == "b"

    lab.run(check, max_batch=1, max_queue=2)


@pytest.mark.parametrize("phase", ["queue", "prefill", "decode"])
def test_a_cancelled_request_frees_its_place(lab: Any, phase: str):
    async def check(engine: Engine) -> None:
        if phase == "queue":
            lab.model.gate.clear()
            first = await engine.submit(lab.request("say first"))
            stream = await engine.submit(lab.request("say second"))
            await lab.until(lambda: engine.health().queued == 1)
            stream.cancel()
            lab.model.gate.set()
            assert (await lab.read(first)).content == "first"
        elif phase == "prefill":
            lab.model.gate.clear()
            stream = await engine.submit(lab.request("x" * 3000))
            await lab.until(lambda: engine.health().active == 1)
            stream.cancel()
            lab.model.gate.set()
            await lab.until(lambda: engine.health().active == 0)
            assert sum(lab.model.prefilled) < 3000
        else:
            stream = await engine.submit(lab.request("say " + "y" * 1500))
            async for event in stream:
                if hasattr(event, "text"):
                    stream.cancel()
        assert (await lab.read(stream)).events == []
        await lab.until(lambda: engine.health().active == engine.health().queued == 0)
        assert not lab.model.live
        assert lab.model.steps < 1500

    lab.run(check, max_batch=1)


def test_an_abandoned_stream_cancels_itself(lab: Any):
    async def check(engine: Engine) -> None:
        stream = await engine.submit(lab.request("say " + "y" * 1900))
        async for event in stream:
            if hasattr(event, "text"):
                break
        del stream
        gc.collect()
        await lab.until(lambda: engine.health().active == 0)
        assert lab.model.steps < 1900

    lab.run(check)


def test_a_reader_that_sleeps_holds_nobody_up_and_loses_nothing(lab: Any):
    async def check(engine: Engine) -> None:
        text = "abcdefghij" * 90
        stream = await engine.submit(lab.request(f"say {text}|{text}", thinking=Thinking()))
        assert (await lab.ask(engine, "say quick")).content == "quick"
        await lab.until(lambda: engine.health().active == 0)
        told = await lab.read(stream)
        assert (told.reasoning, told.content) == (text, text)
        assert sum(isinstance(event, ReasoningDelta) for event in told.events) == 1

    lab.run(check)


def test_before_start_and_after_stop_nothing_is_taken(lab: Any):
    async def check() -> None:
        async with lab.engine() as engine:
            await engine.stop(0)
            await engine.stop(0)
            assert engine.health().status == "draining"
            with pytest.raises(Draining):
                await lab.ask(engine, "say x")
        fresh = Engine(engine._settings)
        assert fresh.health().status == "loading"
        with pytest.raises(Draining, match="loading"):
            await lab.ask(fresh, "say x")
        with pytest.raises(Draining):
            _ = fresh.info
        await fresh.stop(0)

    asyncio.run(check())


def test_the_loop_runs_on_while_the_worker_is_busy(lab: Any):
    async def check(engine: Engine) -> None:
        lab.model.gate.clear()
        stream = await engine.submit(lab.request("say x"))
        await lab.until(lambda: engine.health().active == 1)
        await asyncio.sleep(0.05)
        age = engine.health().last_step_age_s
        assert age is not None
        assert age >= 0.05
        lab.model.gate.set()
        await lab.read(stream)
        await lab.until(lambda: engine.health().last_step_age_s is None)

    lab.run(check)
