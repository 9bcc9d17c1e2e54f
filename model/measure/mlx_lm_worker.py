"""mlx-lm, measured by the same commands: run by its path, by the Python of an environment that has
mlx-lm and not mxserve, with a checkpoint's folder.

Loading, stepping and prefill are mlx-lm's own (mlx_lm.utils, mlx_lm.generate.generate_step); the
made-up context is put into its cache objects.
"""

import importlib
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

WARM_STEPS = 4
SEED_TOKENS = 8
SHARE_OF_MEMORY = 0.5
CACHE_STEP = 256  # mlx-lm's caches grow by so many tokens


class Worker:
    """A loaded model and what is measured of it; see model/measure/ours.py for the commands."""

    def __init__(self, folder: Path) -> None:
        utils = importlib.import_module("mlx_lm.utils")
        self._generate = importlib.import_module("mlx_lm.generate")
        self._caches = importlib.import_module("mlx_lm.models.cache")
        self.model, config = utils.load_model(folder)
        self._text: dict[str, Any] = config.get("text_config", config)

    def prefill(self, tokens: int, seed: int) -> dict[str, Any]:
        prompt = mx.random.randint(0, self._text["vocab_size"], (tokens,), key=mx.random.key(seed))
        mx.eval(prompt)
        mx.reset_peak_memory()
        begin = time.perf_counter()
        next(self._generate.generate_step(prompt, self.model, max_tokens=1))
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "peak_bytes": mx.get_peak_memory()}

    def decode(self, context: int, tokens: int, free_bytes: int) -> dict[str, Any]:
        needed = 2 * self._context_bytes(context)
        if needed > SHARE_OF_MEMORY * free_bytes:
            return {"skipped": f"needs {needed >> 20} MiB, {free_bytes >> 20} MiB are free"}
        cache = self._after(context)
        mx.reset_peak_memory()
        steps = self._generate.generate_step(
            mx.array([0]), self.model, max_tokens=tokens + WARM_STEPS + 2, prompt_cache=cache
        )
        for _ in range(WARM_STEPS + 1):
            next(steps)
        begin = time.perf_counter()
        for _ in range(tokens):
            next(steps)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "peak_bytes": mx.get_peak_memory()}

    def host_time(self, context: int, count: int) -> dict[str, Any]:
        cache, token = self._after(context), mx.array([0])
        found = []
        for _ in range(WARM_STEPS + count):
            begin = time.perf_counter()
            logits = self.model(token[None], cache=cache)[:, -1, :]
            logprobs = logits - mx.logsumexp(logits, keepdims=True)
            sampled = mx.argmax(logprobs, axis=-1)
            found.append((time.perf_counter() - begin) * 1e6)
            mx.eval(sampled, [each.state for each in cache])
        return {"microseconds": found[WARM_STEPS:]}

    def _context_bytes(self, context: int) -> int:
        text = self._text
        layers = sum(hasattr(each, "offset") for each in self.model.make_cache())
        width = text["num_key_value_heads"] * text["head_dim"]
        return 2 * layers * width * context * 4

    def _after(self, context: int) -> list[Any]:
        """Caches after a few tokens that were really fed, with random keys and values before."""
        cache = self._caches.make_prompt_cache(self.model)
        self.model(mx.zeros((1, min(SEED_TOKENS, context)), mx.int32), cache=cache)
        mx.eval([each.state for each in cache])
        for each in cache:
            if not hasattr(each, "offset"):
                continue
            heads, size = each.keys.shape[1], each.keys.shape[3]
            capacity = -(-(context + 1) // CACHE_STEP) * CACHE_STEP
            shape = (1, heads, capacity, size)
            each.keys = mx.random.normal(shape, dtype=each.keys.dtype)
            each.values = mx.random.normal(shape, dtype=each.values.dtype)
            each.offset = context
            mx.eval(each.keys, each.values)
        return cache


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    protocol = importlib.import_module("protocol")
    worker = Worker(Path(sys.argv[1]))
    protocol.answer_commands(
        {"prefill": worker.prefill, "decode": worker.decode, "host_time": worker.host_time},
        {"mlx-lm": metadata.version("mlx-lm"), "mlx": metadata.version("mlx")},
    )


if __name__ == "__main__":
    main()
