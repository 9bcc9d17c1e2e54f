"""What can go wrong with a request, as types; each dialect gives them its own status and shape."""

from __future__ import annotations


class EngineError(Exception):
    """Any failure of a request that the engine itself reports. str() is fit for the caller."""


class InvalidRequest(EngineError):
    """The request can never run. `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ContextOverflow(EngineError):
    """The prompt, or the prompt plus the requested tokens, is longer than the context.

    limit: tokens of context; prompt_tokens: tokens of the prompt; requested: max_tokens, or None
    when the request left it open.
    """

    def __init__(self, limit: int, prompt_tokens: int, requested: int | None = None) -> None:
        if requested is None:
            detail = f"your messages resulted in {prompt_tokens} tokens"
            advice = "the messages"
        else:
            detail = (
                f"you requested {prompt_tokens + requested} tokens "
                f"({prompt_tokens} in the messages, {requested} in the completion)"
            )
            advice = "the messages or completion"
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, {detail}. "
            # Clients that keep only the message know this error by its code in it.
            f"Please reduce the length of {advice} (context_length_exceeded)."
        )
        self.limit = limit
        self.prompt_tokens = prompt_tokens
        self.requested = requested


class QueueFull(EngineError):
    """Too many requests wait already. `retry_after`: whole seconds after which to try again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"The server is busy. Please try again in {retry_after} s.")
        self.retry_after = retry_after


class Draining(EngineError):
    """The server is stopping (or has not finished starting) and takes no new request."""

    def __init__(self, message: str = "The server is shutting down.") -> None:
        super().__init__(message)


class EngineDead(EngineError):
    """The worker cannot go on; only a restart helps. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The engine stopped: {reason}")
        self.reason = reason


class LoadFailed(EngineError):
    """The weights, which an idle server had freed, could not be loaded again. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The model could not be loaded again: {reason}")
        self.reason = reason


class OutOfMemory(EngineError):
    """The device had no memory for this request, even with the prompt cache emptied."""

    def __init__(self, message: str = "Not enough memory for this request.") -> None:
        super().__init__(message)


class StepFailed(EngineError):
    """A step of this request raised, or its logits were not finite. Other requests go on."""


class RequestTimeout(EngineError):
    """The request did not finish within its time limit of `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request did not finish within {seconds:g} s.")
        self.seconds = seconds


class GrammarDeadEnd(EngineError):
    """The answer reached a point from where its grammar allows no token. `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The answer cannot go on within its grammar: {reason}")
        self.reason = reason
