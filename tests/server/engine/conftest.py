"""A small deterministic model with the interface of the real one, and an engine that runs it.

Text is characters: token = code point. The model answers with what the last message says after
"say "; every next token is a function of *all* keys, values and recurrent state it was given, so
that a wrong reuse of state shows in the text.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from server.engine import Engine, EngineSettings, GenerationRequest, Stream
from server.engine.events import ContentDelta, Event, Failed, Finished, ReasoningDelta
from server.engine.ports import Backend, Facts

EOS = 0
TURN_END = 1
ANSWER = 2
THINK_END = 0x10FFFF
CLOSING = "\nEnough.</think>"


class Tokenizer:
    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        ids: list[int] = []
        for index, piece in enumerate(text.split("</think>")):
            ids += [THINK_END] * (index > 0) + [ord(character) for character in piece]
        return ids

    def token_id(self, text: str) -> int | None:
        return THINK_END if text == "</think>" else None

    def detokenizer(self) -> Tokenizer:
        return self

    def add(self, token: int) -> str:
        return "</think>" if token == THINK_END else chr(token)

    def flush(self) -> str:
        return ""


@dataclass(frozen=True)
class Span:
    tokens: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        return 8 * len(self.tokens)


@dataclass(frozen=True)
class Snapshot:
    digest: int
    position: int
    nbytes: int = 64


def digest(before: int, tokens: Sequence[int]) -> int:
    for token in tokens:
        before = hash((before, token))
    return before


def next_token(keys: Sequence[int], seed: int) -> int:
    """The character of the script that follows what was generated so far."""
    start = len(keys) - keys[::-1].index(ANSWER) if ANSWER in keys else len(keys)
    said = "".join(map(Tokenizer().add, keys[start:]))
    asked = "".join(map(chr, keys[: start - 1])).rsplit("say ", 1)
    script = asked[1].rstrip("\1") if len(asked) > 1 else "what?"
    script = script.replace("$", "0123456789"[seed % 10]).replace("|", "</think>")
    if CLOSING in said:
        said, script = said.split(CLOSING, 1)[1], "cut."
    rest = script[len(said) :] if script.startswith(said) else "WRONG"
    return Tokenizer().encode(rest)[0] if rest else EOS


@dataclass
class Model:
    """Set a fault to make matching calls raise, `fault_times` times after `fault_after` calls;
    with `poison` a row gives logits that are not finite, once. on_prefill is told the tokens of
    every chunk."""

    context_length: int = 4000
    prefill_fault: BaseException | None = None
    step_fault: BaseException | None = None
    snapshot_fault: BaseException | None = None
    restore_fault: BaseException | None = None
    self_test_fault: BaseException | None = None
    load_fault: BaseException | None = None
    fault_after: int = 0
    fault_times: int = 1
    poison: bool = False
    prefilled: list[int] = field(default_factory=list)
    on_prefill: Callable[[int], None] = lambda tokens: None
    steps: int = 0
    most_rows: int = 0
    self_tests: int = 0
    touches: int = 0
    touch_fault: BaseException | None = None
    live: set[int] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    name: str = "fake"
    is_demo: bool = False
    on_gpu: bool = False
    fingerprint: str = "fake"
    bytes_per_token: int = 8
    bytes_per_sequence: int = 64
    active_bytes: int = 0
    limit_bytes: int = 1 << 30
    guesses: dict[str, int] = field(default_factory=dict)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)
    template: Any = None
    config: Any = None

    def __post_init__(self) -> None:
        self.gate.set()
        self.config = SimpleNamespace(
            generation=SimpleNamespace(
                eos_token_ids=(EOS,),
                do_sample=True,
                temperature=0.6,
                top_p=None,
                top_k=20,
                min_p=None,
            )
        )

    def warm_up(self) -> float:
        return 0.0

    def generation(self, sampling: Any) -> Generation:
        return Generation(self, sampling)

    def decoder(self, *, alone: bool) -> Decoder:
        return Decoder(self)

    def memory(self) -> Any:
        return SimpleNamespace(
            active_bytes=self.active_bytes, peak_bytes=0, limit_bytes=self.limit_bytes
        )

    def touch(self) -> None:
        self.touches += 1
        self.fault("touch_fault")

    def self_test(self) -> None:
        self.self_tests += 1
        self.fault("self_test_fault")

    def fault(self, name: str) -> None:
        error = getattr(self, name)
        if error is None:
            return
        if self.fault_after:
            self.fault_after -= 1
            return
        self.fault_times -= 1
        if not self.fault_times:
            setattr(self, name, None)
            self.fault_times = 1
        raise error


class Generation:
    def __init__(self, model: Model, sampling: Any) -> None:
        self.model = model
        self.seed = sampling.seed
        self.keys: list[int] = []
        self.digest = 0
        self.first: int | None = None  # the prompt's last token, fed by the first step
        self.scored = None
        model.live.add(id(self))

    @property
    def position(self) -> int:
        return len(self.keys)

    @property
    def tokens(self) -> list[int]:
        return list(self.keys)

    def feed(self, tokens: Sequence[int]) -> None:
        self.keys += tokens
        self.digest = digest(self.digest, tokens)

    def restore(self, spans: Sequence[Span], recurrent: Snapshot, tokens: Sequence[int]) -> None:
        assert not self.keys
        self.model.fault("restore_fault")
        self.keys = [token for span in spans for token in span.tokens]
        self.digest = recurrent.digest
        assert self.keys == list(tokens)

    def fork(self, sampling: Any) -> Generation:
        other = Generation(self.model, sampling)
        other.feed(self.keys)
        return other

    def recovered(self) -> tuple[Generation, list[int]]:
        other = Generation(self.model, SimpleNamespace(seed=self.seed))
        if self.first is not None:  # nothing was fed yet
            other.first = self.first
            return other, self.keys
        other.first = self.keys[-1]
        return other, self.keys[:-1]

    def prefill(self, tokens: Sequence[int]) -> None:
        assert self.model.gate.wait(20)
        self.model.fault("prefill_fault")
        self.model.prefilled.append(len(tokens))
        self.feed(tokens)
        self.model.on_prefill(len(tokens))

    def step(self) -> int | None:
        if self.first is not None:
            self.feed([self.first])
            self.first = None
            return None
        if self.model.poison and self.model.fault_after == 0:
            self.model.poison = False
            return -1
        if self.model.poison:
            self.model.fault_after -= 1
        assert self.digest == digest(0, self.keys), "keys and recurrent state disagree"
        value = next_token(self.keys, self.seed)
        self.feed([value])
        return value

    def force(self, tokens: Sequence[int]) -> None:
        self.feed(tokens)

    def settle(self) -> None:
        pass

    def span(self, start: int, end: int) -> Span:
        return Span(tuple(self.keys[start:end]))

    def recurrent(self) -> Snapshot:
        self.model.fault("snapshot_fault")
        return Snapshot(self.digest, len(self.keys))

    def release(self) -> None:
        self.model.live.discard(id(self))


@dataclass
class Decoder:
    model: Model
    rows: list[Generation] = field(default_factory=list)

    @property
    def members(self) -> tuple[Generation, ...]:
        return tuple(self.rows)

    def join(
        self, generation: Generation, token: int, *, constraint: Any = None, top: int | None = None
    ) -> None:
        generation.first = token
        self.rows.append(generation)

    def rejoin(self, generation: Generation) -> None:
        self.rows.append(generation)

    def leave(self, generation: Generation) -> None:
        if generation in self.rows:
            self.rows.remove(generation)

    def step(self) -> list[tuple[Generation, int]]:
        assert self.model.gate.wait(20)
        self.model.fault("step_fault")
        self.model.steps += 1
        self.model.most_rows = max(self.model.most_rows, len(self.rows))
        told = [(row, row.step()) for row in self.rows]
        return [(row, token) for row, token in told if token is not None]

    def abandon(self) -> list[Generation]:
        rows, self.rows = self.rows, []
        return rows


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    boundaries: tuple[int, ...]
    generation_prompt_length: int = 1
    sections: tuple[Any, ...] = ()


class Turns:
    def __init__(self) -> None:
        self.kept: list[tuple[list[int], list[int], str, str]] = []

    def remember(
        self,
        prefix: list[int],
        generated: list[int],
        content: str,
        reasoning: str,
        calls: Any,
        tenant: str,
    ) -> Any:
        self.kept.append((list(prefix), list(generated), content, reasoning))
        return SimpleNamespace(to_json=lambda: content)

    def keep(self, turn: Any) -> None:
        self.kept.append(([], [], turn, ""))


def encode(facts: Facts, request: GenerationRequest, turns: Turns) -> Prompt:
    tokens: list[int] = []
    boundaries: list[int] = []
    for message in request.messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"no role {message['role']}")
        tokens += [*map(ord, message["content"]), TURN_END]
        boundaries.append(len(tokens))
    return Prompt([*tokens, ANSWER], tuple(boundaries))


def backend(model: Model, turns: Turns) -> Backend:
    def load() -> Any:
        if model.load_fault is not None:
            raise model.load_fault
        return model

    def seeded(sampling: Any, seed: int) -> Any:
        return SimpleNamespace(**{**vars(sampling), "seed": seed})

    def turn(line: str) -> Any:
        return line

    class NoGrammars:
        def compile(self, rules: Any) -> Any:
            raise AssertionError("nothing here asks for rules")

    return Backend(
        load=load,
        turns=lambda: turns,
        turn=turn,
        encode=encode,
        seeded=seeded,
        grammars=lambda model: NoGrammars(),
    )


@dataclass
class Told:
    """What one stream told."""

    events: list[Event]

    @property
    def content(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ContentDelta))

    @property
    def reasoning(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, ReasoningDelta))

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    @property
    def error(self) -> Exception | None:
        last = self.events[-1] if self.events else None
        return last.error if isinstance(last, Failed) else None


@dataclass
class Lab:
    """An engine over the fake model; `run` starts it, gives it to an async function, stops it."""

    model: Model = field(default_factory=Model)
    turns: Turns = field(default_factory=Turns)

    @asynccontextmanager
    async def engine(self, **settings: Any) -> AsyncIterator[Engine]:
        settings.setdefault("closing_text", CLOSING)
        engine = Engine(EngineSettings(**settings), model_functions=backend(self.model, self.turns))
        await engine.start()
        try:
            yield engine
        finally:
            self.model.gate.set()
            await engine.stop(0)
            assert not self.model.live, "a generation was not released"
            worker = engine._worker
            assert worker is not None
            if worker.dead is None or "loading" not in worker.dead:
                worker._jobs.scheduler.check()
                assert worker.slots_used == worker.queued == 0
            assert not worker.accounts_broken, "slots or bytes did not add up"

    def run(self, test: Callable[[Engine], Awaitable[None]], **settings: Any) -> None:
        async def all_of_it() -> None:
            async with self.engine(**settings) as engine:
                await test(engine)

        asyncio.run(asyncio.wait_for(all_of_it(), 30))

    @staticmethod
    def request(text: str | list[dict[str, Any]], **fields: Any) -> GenerationRequest:
        from server.engine import Thinking

        fields.setdefault("thinking", Thinking(False))
        seed = fields.pop("seed", None)
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        sampling: Any = SimpleNamespace(logit_bias={}, seed=seed)
        return GenerationRequest(messages, sampling=sampling, **fields)

    @staticmethod
    async def read(stream: Stream) -> Told:
        return Told([event async for event in stream])

    async def ask(self, engine: Engine, text: str | list[dict[str, Any]], **fields: Any) -> Told:
        return await self.read(await engine.submit(self.request(text, **fields)))

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        for _ in range(1000):
            if condition():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it did not come to that")


@pytest.fixture
def lab() -> Lab:
    return Lab()
