"""What the engine uses of `model`, as types, and the one place that imports it.

The imports happen inside the functions, so that importing `server.engine` loads no mlx; arrays
stay opaque here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from model.kernel_choice import KernelChoice
    from model.mtp_policy import MtpDepth
    from model.sampling import SamplingParams
    from server.engine.request import GenerationRequest


class KVSpan(Protocol):
    """Keys and values of a run of tokens."""

    @property
    def nbytes(self) -> int: ...
    @property
    def length(self) -> int: ...


class RecurrentSnapshot(Protocol):
    """The recurrent states right after token `position`."""

    @property
    def nbytes(self) -> int: ...
    @property
    def position(self) -> int: ...


class Generation(Protocol):
    """One sequence; see model.generation."""

    @property
    def position(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    def restore(self, spans: Sequence[Any], recurrent: Any, tokens: Sequence[int], /) -> None: ...
    def fork(self, sampling: Any, /) -> Any: ...
    def recovered(self) -> tuple[Any, list[int]]: ...
    def prefill(self, tokens: Sequence[int], /) -> None: ...
    def score(
        self, tokens: Sequence[int], following: Sequence[int], top: int, /
    ) -> list[TokenScores]: ...
    @property
    def scored(self) -> TokenScores | None: ...
    def force(self, tokens: Sequence[int], /) -> None: ...
    def settle(self) -> None: ...
    def span(self, start: int, end: int, /) -> KVSpan: ...
    def recurrent(self) -> RecurrentSnapshot: ...
    def release(self) -> None: ...


class TokenScores(Protocol):
    """A token's log probability, and (token id, log probability) of the likeliest there."""

    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> tuple[tuple[int, float], ...]: ...


class Decoder(Protocol):
    """Steps many generations at once; see model.decoder."""

    @property
    def members(self) -> tuple[Any, ...]: ...
    def join(
        self, generation: Any, token: int, /, *, constraint: Any = None, top: int | None = None
    ) -> None: ...
    def rejoin(self, generation: Any, /) -> None: ...
    def leave(self, generation: Any, /) -> None: ...
    def step(self) -> Iterable[tuple[Any, int]]: ...
    def abandon(self) -> list[Any]: ...


class Memory(Protocol):
    """Bytes in use on the device, the most there were, and how many there may be."""

    @property
    def active_bytes(self) -> int: ...
    @property
    def peak_bytes(self) -> int: ...
    @property
    def limit_bytes(self) -> int: ...


class Detokenizer(Protocol):
    def add(self, token: int, /) -> str: ...
    def flush(self) -> str: ...


class Tokenizer(Protocol):
    def encode(self, text: str, *, allow_special: bool = False) -> list[int]: ...
    def spelled(self, ids: Sequence[int], /) -> str: ...
    def token_bytes(self, token: int, /) -> bytes: ...
    def token_id(self, token: str, /) -> int | None: ...
    def detokenizer(self) -> Detokenizer: ...


class Model(Protocol):
    """A loaded checkpoint; see model.loading."""

    @property
    def config(self) -> Any: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def template(self) -> Any: ...
    @property
    def name(self) -> str: ...
    @property
    def context_length(self) -> int: ...
    @property
    def is_demo(self) -> bool: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def on_gpu(self) -> bool: ...
    @property
    def bytes_per_token(self) -> int: ...
    @property
    def bytes_per_sequence(self) -> int: ...
    def generation(self, sampling: Any, /) -> Any: ...
    @property
    def guesses(self) -> Mapping[str, int]: ...
    def decoder(self, *, alone: bool) -> Decoder: ...
    def memory(self) -> Memory: ...
    def self_test(self) -> None: ...
    def touch(self) -> None: ...
    def warm_up(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What other threads than the worker may have of a model: text and figures, no array."""

    name: str
    is_demo: bool
    context_length: int
    config: Any
    tokenizer: Any
    template: Any

    @classmethod
    def of(cls, model: Model) -> Facts:
        return cls(
            model.name,
            model.is_demo,
            model.context_length,
            model.config,
            model.tokenizer,
            model.template,
        )


class Section(Protocol):
    """One turn of a prompt; see model.prompt."""

    @property
    def kind(self) -> str: ...
    @property
    def message(self) -> int | None: ...
    @property
    def thought_end(self) -> int | None: ...


class Prompt(Protocol):
    """A rendered and tokenised conversation; see model.prompt."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def boundaries(self) -> tuple[int, ...]: ...
    @property
    def sections(self) -> tuple[Section, ...]: ...
    @property
    def generation_prompt_length(self) -> int: ...


class Turn(Protocol):
    """One such turn, fit for a file."""

    def to_json(self) -> str: ...


class TurnMemory(Protocol):
    """The ids the model produced for its earlier turns; safe to use from any thread."""

    def remember(
        self,
        prefix_tokens: Sequence[int],
        generated_ids: Sequence[int],
        content: str,
        reasoning: str,
        tool_calls: Any,
        tenant: str,
        /,
    ) -> Turn: ...
    def keep(self, turn: Any, /) -> None: ...


class Constraint(Protocol):
    """Follows one answer and says which tokens may come next; see server.output.constraint."""

    @property
    def failure(self) -> str | None: ...
    def accept(self, token: int, /) -> None: ...
    def mask(self) -> Any: ...
    def copy(self) -> Constraint: ...


class Grammars(Protocol):
    """Compiles rules, in any thread; raises server.output.grammars.GrammarError."""

    def compile(self, rules: Any, /) -> Constraint: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """The functions of `model` that the engine calls.

    load: runs in the worker thread. turns: makes an empty TurnMemory; turn: the inverse of
    Turn.to_json. encode: renders and tokenises a request, in any thread; ValueError means the
    request can't be rendered. seeded: the request's sampling with another seed. grammars: what
    compiles rules for the answers of a loaded model; runs in the worker thread, once. free: gives
    back the memory of a model that nobody holds any more; returns the bytes still in use.
    """

    load: Callable[[], Model]
    turns: Callable[[], Any]
    turn: Callable[[str], Turn]
    encode: Callable[[Facts, GenerationRequest, Any], Prompt]
    seeded: Callable[[SamplingParams, int], SamplingParams]
    grammars: Callable[[Any], Grammars]
    free: Callable[[], int] = int


def backend(
    path: Path | str | None,
    progress: Callable[[int, int], None] | None,
    kernels: KernelChoice = "auto",
    mtp: tuple[Path | None, MtpDepth] = (None, "auto"),
) -> Backend:
    """The real thing, for the checkpoint at `path` (None: the embedded demo). mtp: where the MTP
    head is, None for the checkpoint, and how many tokens it guesses."""
    return Backend(
        load=lambda: _load(path, progress, kernels, mtp),
        turns=_turns,
        turn=_turn,
        encode=_encode,
        seeded=_seeded,
        grammars=_grammars,
        free=_free,
    )


def _load(
    path: Path | str | None,
    progress: Callable[[int, int], None] | None,
    kernels: KernelChoice,
    mtp: tuple[Path | None, MtpDepth],
) -> Model:
    from model.loading import load_model

    side, depth = mtp
    return load_model(path, progress=progress, kernels=kernels, mtp=side, mtp_depth=depth)


def _free() -> int:
    from model.device import free_spare_memory

    return free_spare_memory()


def _turns() -> Any:
    from model.turn_memory import TurnMemory

    return TurnMemory()


def _turn(line: str) -> Turn:
    from model.turn_memory import Turn

    return Turn.from_json(line)


def _grammars(model: Any) -> Grammars:
    from server.output.grammars import Grammars

    tokenizer = model.tokenizer
    return Grammars(
        (model.folder / "tokenizer.json").read_text(encoding="utf-8"),
        vocab_size=model.config.vocab_size,
        eos=model.config.generation.eos_token_ids[0],
        ends=model.config.generation.eos_token_ids,
        think_end=tokenizer.token_id("</think>"),
        call_start=tokenizer.token_id("<tool_call>"),
        call_end=tokenizer.token_id("</tool_call>"),
    )


def _encode(facts: Facts, request: GenerationRequest, turns: Any) -> Prompt:
    from model.prompt import encode_chat, encode_text

    if request.prompt is not None:
        return encode_text(facts.tokenizer, request.prompt)
    return encode_chat(
        facts.tokenizer,
        facts.template,
        request.messages,
        tools=request.tools,
        enable_thinking=request.thinks,
        preserve_thinking=request.preserve_thinking is not False,
        turns=turns,
        tenant=request.tenant,
        continue_final=request.continue_final,
    )


def _seeded(sampling: SamplingParams, seed: int) -> SamplingParams:
    from dataclasses import replace

    return replace(sampling, seed=seed)


def generation_defaults(config: Any) -> dict[str, Any]:
    """temperature, top_p, top_k, min_p as the checkpoint recommends, plain sampling where it says
    nothing and greedy where it says so."""
    advice = config.generation
    temperature = 1.0 if advice.temperature is None else advice.temperature
    return {
        "temperature": 0.0 if advice.do_sample is False else temperature,
        "top_p": 1.0 if advice.top_p is None else advice.top_p,
        "top_k": advice.top_k or 0,
        "min_p": advice.min_p or 0.0,
    }
