"""What a request demands of its answer, as rules that are compiled before it is queued.

Knows the request and the compiler of rules; neither tokens nor how a rule holds.
"""

from __future__ import annotations

from server.engine.errors import InvalidRequest
from server.engine.ports import Constraint, Grammars
from server.engine.request import GenerationRequest
from server.output.constraint import OutputRules
from server.output.grammars import GrammarError


def compiled(request: GenerationRequest, grammars: Grammars | None) -> Constraint | None:
    """The constraint of each of the request's answers, None where anything goes. Takes up to
    some milliseconds. Raises InvalidRequest for what cannot be enforced."""
    tools = request.tools or None
    if grammars is None or (tools is None and request.grammar is None):
        return None
    rules = OutputRules(
        thinking=request.thinks,
        opened=not request.thinks,
        tools=tools,
        tool_places=request.tool_places,
        tool_mode=request.tool_choice.mode,
        tool_names=request.tool_choice.names,
        parallel=request.tool_choice.parallel,
        grammar=request.grammar,
    )
    try:
        return grammars.compile(rules)
    except GrammarError as error:
        raise InvalidRequest(str(error), error.param) from error
