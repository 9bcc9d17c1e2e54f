"""A request inside the engine: what submit() prepared and the worker works off."""

from __future__ import annotations

from dataclasses import dataclass

from server.engine.mailbox import Mailbox
from server.engine.ports import Constraint, Prompt
from server.engine.request import GenerationRequest


@dataclass(eq=False, repr=False, slots=True)
class Job:
    """One request. Times are seconds of the engine's clock (deadline may be infinite). constraint:
    to be copied for each answer. `cancelled` is set by any thread and read by the worker between
    two pieces of work. Its repr is its id: what people wrote has no place in a log."""

    id: str
    request: GenerationRequest
    prompt: Prompt
    mailbox: Mailbox
    submitted_at: float
    deadline: float
    constraint: Constraint | None = None
    cancelled: bool = False

    def __repr__(self) -> str:
        return f"Job({self.id})"
