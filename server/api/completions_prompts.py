"""The prompts of a text completion as the engine gets them, and as they are echoed.

Knows how a prompt and a suffix become one fill-in-the-middle prompt, where the tokenizer has the
control tokens for it; asks the engine for tokens and text.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.api.completions_schema import CompletionRequest, WirePrompt
from server.api.errors import ApiError
from server.api.serving import Serving

FIM_TOKENS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


@dataclass(frozen=True, slots=True)
class Prompt:
    """prompt: for the engine. text: what echo puts before the answer. first: the text of its first
    token, where log probabilities are echoed too."""

    prompt: WirePrompt
    text: str = ""
    first: str = ""


async def prompts_of(request: CompletionRequest, engine: Serving) -> list[Prompt]:
    """One for each of the request's prompts. Raises ApiError or EngineError."""
    if request.suffix is not None:
        opening = [await _control(token, engine) for token in FIM_TOKENS]
        return [await _filling(p, request.suffix, opening, engine) for p in request.prompts]
    if not request.echo:
        return [Prompt(prompt) for prompt in request.prompts]
    return [await _echoed(p, request.logprobs is not None, engine) for p in request.prompts]


async def _echoed(prompt: WirePrompt, logprobs: bool, engine: Serving) -> Prompt:
    text = prompt if isinstance(prompt, str) else await engine.detokenize(prompt)
    if not logprobs:
        return Prompt(prompt, text)
    tokens = await _tokens(prompt, engine, special=True)
    first = (await engine.token_texts(tokens[:1]))[0] if tokens else ""
    return Prompt(tokens, text, first)


async def _filling(prompt: WirePrompt, suffix: str, controls: list[int], engine: Serving) -> Prompt:
    """Control tokens spelled in the code around the gap stay text."""
    before = await _tokens(prompt, engine, special=False)
    after = await engine.tokenize(suffix, special=False)
    prefix, middle, end = controls
    return Prompt((prefix, *before, middle, *after, end))


async def _tokens(prompt: WirePrompt, engine: Serving, *, special: bool) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return tuple(await engine.tokenize(prompt, special=special))
    return prompt


async def _control(token: str, engine: Serving) -> int:
    tokens = await engine.tokenize(token, special=True)
    if len(tokens) != 1:
        raise ApiError(
            f"This model cannot fill in the middle (it has no token {token}); leave suffix out.",
            param="suffix",
            code="unsupported_parameter",
        )
    return tokens[0]
