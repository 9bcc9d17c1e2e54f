"""Whether a request fits into memory, by what is in use now, and what to give up for it.

Knows bytes, the model's figures and the prompt cache; nothing of turns.
"""

from __future__ import annotations

from server.engine.job import Job
from server.engine.ports import Model
from server.engine.prompt_cache import PromptCache

# Tokens that an answer without a limit is expected to have.
EXPECTED_ANSWER = 2048
# A row is copied when the company of a step changes, and capacities come in steps of half.
SPARE = 2
# Words of MLX's errors on the CPU, on CUDA and on Metal.
_MEMORY_WORDS = (
    "out of memory",
    "bad_alloc",
    "failed to allocate",
    "unable to allocate",
    "insufficient memory",
    "outofmemory",
    "[metal::malloc]",
)


def make_room(job: Job, model: Model, cache: PromptCache, *, alone: bool) -> bool:
    """Whether `job` may begin, after giving up as much of the prompt cache as that takes. Where it
    takes more than all of it, it has to wait for others, and nothing is given up; with nobody else
    at work (`alone`) it may try, for what it will need is an estimate."""
    request = job.request
    answer = min(request.max_tokens or EXPECTED_ANSWER, EXPECTED_ANSWER)
    tokens = len(job.prompt.tokens) + answer * request.n
    needed = SPARE * (tokens * model.bytes_per_token + request.n * model.bytes_per_sequence)
    memory = model.memory()
    missing = memory.active_bytes + needed - memory.limit_bytes
    if missing > cache.nbytes and not alone:
        return False
    if missing > 0:
        cache.shed(missing)
    return True


def is_memory_error(error: Exception) -> bool:
    """Whether an error of MLX, which has no type of its own for it, says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _MEMORY_WORDS)
